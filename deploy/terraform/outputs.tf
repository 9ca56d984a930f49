output "agent_image" {
  description = "Where to push the agent's image, and the workflow's argument agentImage (with a tag)."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/agent"
}

output "vm_service_account" {
  description = "The account that VMs run as; grant it what jobs need."
  value       = google_service_account.vm.email
}

output "workflow_service_account" {
  description = "The account that the workflows run as."
  value       = google_service_account.workflow.email
}

output "workflows" {
  description = "The workflows' names, for gcloud workflows run."
  value       = [google_workflows_workflow.long_run.name, google_workflows_workflow.fan_out.name]
}
