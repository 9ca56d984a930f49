//! compute.googleapis.com: the end of the VM.
//!
//! The VM goes on being there after its deletion was asked for, as the real one does for some seconds. Leaves out
//! everything else that the service can do.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::google::{Refusal, json};
use crate::iam::Permissions;
use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response};
use crate::token::Tokens;
use crate::unique;
use crate::vm::{INSTANCE, INSTANCE_ID, PROJECT, SERVICE_ACCOUNT, ZONE};

/// Where resources say that they are.
const SELF: &str = "https://www.googleapis.com/compute/v1";

#[derive(Debug)]
pub(crate) struct Compute {
    script: Script,
    deleted: Mutex<Vec<String>>,
    permissions: Arc<Permissions>,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

impl Compute {
    pub(crate) fn new(
        script: Script,
        permissions: Arc<Permissions>,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        Self { script, deleted: Mutex::default(), permissions, tokens, complaints }
    }

    /// The names of the instances that were deleted.
    pub(crate) fn deleted(&self) -> Vec<String> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let instance = request.uri().path().strip_prefix("/compute/v1/").filter(|name| is_instance(name));
        match instance {
            Some(instance) if request.method() == Method::DELETE => match self.script.next() {
                Some(answer) => answer.reply(|status| Refusal::from(status).into()),
                None => Reply::Answer(self.delete(request, instance).unwrap_or_else(Response::from)),
            },
            _ => {
                self.complaints.unknown(request);
                Reply::Answer(Refusal::from(StatusCode::NOT_FOUND).into())
            }
        }
    }

    fn delete(&self, request: &Request, instance: &str) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        self.permissions.check("compute.instances.delete", instance)?;
        if instance != format!("projects/{PROJECT}/zones/{ZONE}/instances/{INSTANCE}") {
            let message = format!("The resource '{instance}' was not found");
            return Err(Refusal::new(StatusCode::NOT_FOUND, message));
        }
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner).push(INSTANCE.to_owned());
        Ok(json(StatusCode::OK, &operation(instance)))
    }
}

/// Whether it is `projects/P/zones/Z/instances/I`.
fn is_instance(name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    matches!(parts[..], ["projects", _, "zones", _, "instances", _])
}

/// The deletion, as it stands when it was just asked for.
fn operation(instance: &str) -> Value {
    let name = format!("operation-1795428000000-{:016x}", unique());
    let zone = format!("{SELF}/projects/{PROJECT}/zones/{ZONE}");
    let time = "2026-11-23T02:00:00.000-08:00";
    json!({
        "kind": "compute#operation",
        "id": unique().to_string(),
        "name": name,
        "zone": zone,
        "operationType": "delete",
        "targetLink": format!("{SELF}/{instance}"),
        "targetId": INSTANCE_ID.to_string(),
        "status": "RUNNING",
        "user": SERVICE_ACCOUNT,
        "progress": 0,
        "insertTime": time,
        "startTime": time,
        "selfLink": format!("{zone}/operations/{name}"),
    })
}
