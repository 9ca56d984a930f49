//! compute.googleapis.com: the end of the VM itself.
//!
//! Source: FACTS, "The VM's life"; cloud.google.com/compute/docs/reference/rest/v1/instances/delete.

use std::time::Duration;

use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Api, ApiError, api::json};
use crate::report::Instance;

/// For a Compute Engine that does not answer: a VM that stays is paid for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Deletes the VM, and answers the name of the operation that does it. The VM is up for some seconds more.
pub async fn delete(api: &Api, instance: &Instance) -> Result<String, ApiError> {
    let deadline = Instant::now() + PATIENCE;
    let operation: Operation = api.call(Method::DELETE, &address(instance), None, deadline, json).await?;
    Ok(operation.name)
}

/// The instance's own address.
fn address(instance: &Instance) -> Url {
    let Instance { project, zone, name, .. } = instance;
    let mut url = Url::parse("https://compute.googleapis.com/").expect("a constant address");
    url.set_path(&format!("compute/v1/projects/{project}/zones/{zone}/instances/{name}"));
    url
}

#[derive(Deserialize)]
struct Operation {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_its_address_in_its_zone() {
        let instance = Instance {
            name: "vm".to_owned(),
            id: "1".to_owned(),
            zone: "z".to_owned(),
            project: "example.com:p".to_owned(),
            machine_type: String::new(),
        };
        let expected =
            "https://compute.googleapis.com/compute/v1/projects/example.com:p/zones/z/instances/vm";
        assert_eq!(address(&instance).as_str(), expected);
    }
}
