//! What the VM's service account may do: everything, but for what a test takes away.

use hyper::StatusCode;

use crate::google::Refusal;

#[derive(Debug)]
pub(crate) struct Permissions {
    missing: Vec<String>,
}

impl Permissions {
    pub(crate) fn all_but(missing: Vec<String>) -> Self {
        Self { missing }
    }

    /// Lets in who may do this, `workflows.executions.get` say, with that.
    pub(crate) fn check(&self, permission: &str, resource: &str) -> Result<(), Refusal> {
        if self.missing.iter().any(|missing| missing == permission) {
            let message =
                format!("Permission '{permission}' denied on '{resource}' (or resource may not exist).");
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        Ok(())
    }
}
