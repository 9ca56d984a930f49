# What longrun needs in a project: APIs, a repository, service accounts that may do what they have to, and the
# workflows. Nothing here opens a port or a firewall.

locals {
  vm       = "serviceAccount:${google_service_account.vm.email}"
  workflow = "serviceAccount:${google_service_account.workflow.email}"
  builds   = var.cloud_build ? toset(["longrun-build"]) : toset([])

  # Both delete VMs: the workflow when a job has ended, the agent when nobody waits for its report any more.
  only_our_vms = "resource.type != 'compute.googleapis.com/Instance' || resource.name.extract('/instances/{name}').startsWith('${var.vm_name_prefix}')"
}

resource "google_project_service" "used" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
    "workflowexecutions.googleapis.com",
    "workflows.googleapis.com",
  ])

  service            = each.key
  disable_on_destroy = false
}

resource "google_artifact_registry_repository" "images" {
  repository_id = var.repository
  location      = var.region
  format        = "DOCKER"
  description   = "The image of longrun-agent"
  depends_on    = [google_project_service.used]
}

# The VM's account: it tells the workflow how the job ended, and nothing of the project is its to change but its VM.
resource "google_service_account" "vm" {
  account_id   = "longrun-vm"
  display_name = "longrun: the VMs that run jobs"
  depends_on   = [google_project_service.used]
}

resource "google_project_iam_custom_role" "agent" {
  role_id     = "longrunAgent"
  title       = "longrun agent"
  description = "Tells a workflow how its job ended, and sees whether it still waits"
  permissions = [
    "workflows.callbacks.list",
    "workflows.callbacks.send",
    "workflows.executions.get",
  ]
  depends_on = [google_project_service.used]
}

resource "google_project_iam_custom_role" "deleter" {
  role_id     = "longrunDeleter"
  title       = "longrun deleter"
  description = "Deletes a VM that nobody waits for (longrun-when-orphaned=delete-vm)"
  permissions = ["compute.instances.delete"]
  depends_on  = [google_project_service.used]
}

resource "google_project_iam_member" "vm_reports" {
  project = var.project
  role    = google_project_iam_custom_role.agent.id
  member  = local.vm

  depends_on = [google_project_service.used]
}

resource "google_project_iam_member" "vm_deletes_itself" {
  project = var.project
  role    = google_project_iam_custom_role.deleter.id
  member  = local.vm

  condition {
    title      = "only longrun's VMs"
    expression = local.only_our_vms
  }

  depends_on = [google_project_service.used]
}

resource "google_project_iam_member" "vm_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = local.vm

  depends_on = [google_project_service.used]
}

resource "google_artifact_registry_repository_iam_member" "vm_pulls" {
  repository = google_artifact_registry_repository.images.name
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.reader"
  member     = local.vm
}

resource "google_artifact_registry_repository_iam_member" "vm_pulls_jobs" {
  for_each = var.image_repositories

  location   = split("/", each.key)[0]
  repository = split("/", each.key)[1]
  role       = "roles/artifactregistry.reader"
  member     = local.vm
  depends_on = [google_project_service.used]
}

resource "google_secret_manager_secret_iam_member" "vm_reads" {
  for_each = var.secrets

  secret_id = each.key
  role      = "roles/secretmanager.secretAccessor"
  member    = local.vm

  depends_on = [google_project_service.used]
}

resource "google_storage_bucket_iam_member" "vm_writes" {
  for_each = var.log_buckets

  bucket = each.key
  role   = "roles/storage.objectCreator"
  member = local.vm

  depends_on = [google_project_service.used]
}

# The workflow's account: it makes VMs that run as the VM's account, and deletes those.
resource "google_service_account" "workflow" {
  account_id   = "longrun-workflow"
  display_name = "longrun: the workflows"
  depends_on   = [google_project_service.used]
}

resource "google_project_iam_custom_role" "workflow" {
  role_id     = "longrunWorkflow"
  title       = "longrun workflow"
  description = "Makes VMs, looks at them, deletes them, and runs long-run from fan-out"
  permissions = [
    "compute.disks.create",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getGuestAttributes",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.networks.use",
    "compute.networks.useExternalIp",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
    "logging.logEntries.create",
    "workflows.executions.create",
    "workflows.executions.get",
  ]
  depends_on = [google_project_service.used]
}

resource "google_project_iam_member" "workflow" {
  project = var.project
  role    = google_project_iam_custom_role.workflow.id
  member  = local.workflow

  condition {
    title      = "only longrun's VMs"
    expression = local.only_our_vms
  }

  depends_on = [google_project_service.used]
}

# Of the VM's account alone, not of the project: it can be no other.
resource "google_service_account_iam_member" "workflow_uses_vm" {
  service_account_id = google_service_account.vm.name
  role               = "roles/iam.serviceAccountUser"
  member             = local.workflow
}

resource "google_workflows_workflow" "long_run" {
  name                = "long-run"
  region              = var.region
  description         = "Runs a container on a VM of its own, and returns how it ended"
  service_account     = google_service_account.workflow.id
  source_contents     = file("${path.module}/../workflow.yaml")
  deletion_protection = var.deletion_protection
  depends_on          = [google_project_service.used]
}

resource "google_workflows_workflow" "fan_out" {
  name                = "fan-out"
  region              = var.region
  description         = "Runs one job as many tasks, each on a VM of its own"
  service_account     = google_service_account.workflow.id
  source_contents     = file("${path.module}/../fan-out.yaml")
  deletion_protection = var.deletion_protection
  depends_on          = [google_project_service.used]
}

# Cloud Build's account: it reads the source that was submitted, pushes the agent's image, and logs.
resource "google_service_account" "build" {
  for_each = local.builds

  account_id   = each.key
  display_name = "longrun: builds of the agent's image"
  depends_on   = [google_project_service.used]
}

resource "google_artifact_registry_repository_iam_member" "build_pushes" {
  for_each = local.builds

  repository = google_artifact_registry_repository.images.name
  location   = google_artifact_registry_repository.images.location
  role       = "roles/artifactregistry.writer"
  member     = "serviceAccount:${google_service_account.build[each.key].email}"
}

resource "google_project_iam_member" "build_logs" {
  for_each = local.builds

  project = var.project
  role    = "roles/logging.logWriter"
  member  = "serviceAccount:${google_service_account.build[each.key].email}"
}

resource "google_storage_bucket" "source" {
  for_each = local.builds

  name                        = "${var.project}-${each.key}"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  depends_on                  = [google_project_service.used]

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_storage_bucket_iam_member" "build_reads" {
  for_each = local.builds

  bucket = google_storage_bucket.source[each.key].name
  role   = "roles/storage.objectViewer"
  member = "serviceAccount:${google_service_account.build[each.key].email}"
}
