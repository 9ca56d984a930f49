variable "project" {
  description = "The project that the workflows, the VMs and the agent's image live in."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "Expected a project's id, such as my-project-1234, not its name or number."
  }
}

variable "region" {
  description = "Where the workflows and the repository are. VMs are where each run's argument zones says."
  type        = string
  default     = "europe-west1"

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "Expected a region, such as europe-west1; a zone has one letter more."
  }
}

variable "repository" {
  description = "The Artifact Registry repository for the agent's image, and for jobs' images if you like."
  type        = string
  default     = "longrun"
}

variable "image_repositories" {
  description = "Further Artifact Registry repositories of the project that hold jobs' images, as LOCATION/REPOSITORY."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.image_repositories : can(regex("^[a-z0-9-]+/[a-z0-9-]+$", name))])
    error_message = "Expected LOCATION/REPOSITORY, such as europe/images."
  }
}

variable "cloud_build" {
  description = "Whether there is an account for Cloud Build that may push the agent's image, and a bucket for its source."
  type        = bool
  default     = true
}

variable "vm_name_prefix" {
  description = "How the names of VMs begin that the agent and the workflow may delete. The workflow's own names begin with longrun-."
  type        = string
  default     = "longrun-"

  validation {
    condition     = length(var.vm_name_prefix) > 0
    error_message = "An empty prefix would let each of them delete every VM of the project."
  }
}

variable "secrets" {
  description = "The ids of the secrets that jobs may have by longrun-secret-env-NAME."
  type        = set(string)
  default     = []
}

variable "log_buckets" {
  description = "The names of the buckets that longrun-logs=gs://BUCKET/PREFIX may write to."
  type        = set(string)
  default     = []
}

variable "deletion_protection" {
  description = "Whether Terraform refuses to delete the workflows."
  type        = bool
  default     = false
}
