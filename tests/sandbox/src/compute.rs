//! compute.googleapis.com: images, and VMs from their insertion to their end.
//!
//! Operations take a moment, as the real ones do: who asks for a VM or its end gets one that is `RUNNING`. The VM that
//! the sandbox itself stands for is there too, and goes on being there after its deletion was asked for. Leaves out
//! everything else that the service can do, and checks of an order beyond its name: Google's protos judge those.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::google::{Refusal, json};
use crate::iam::Permissions;
use crate::machines::{Fate, Machine, Machines};
use crate::script::Script;
use crate::server::{Complaints, Reply, Request, Response};
use crate::token::Tokens;
use crate::unique;
use crate::vm::{INSTANCE, INSTANCE_ID, PROJECT, SERVICE_ACCOUNT, ZONE};

/// Where resources say that they are.
const SELF: &str = "https://www.googleapis.com/compute/v1";

/// From an order whose answer got lost to its VM.
const LATE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Compute {
    script: Script,
    machines: Option<Arc<Machines>>,
    held: Arc<Mutex<Held>>,
    permissions: Arc<Permissions>,
    tokens: Arc<Tokens>,
    complaints: Arc<Complaints>,
}

/// What there is.
#[derive(Debug, Default)]
struct Held {
    /// By their whole names.
    instances: BTreeMap<String, Instance>,
    operations: BTreeMap<String, Value>,
    ordered: Vec<Value>,
    deleted: Vec<String>,
}

#[derive(Debug)]
struct Instance {
    status: &'static str,
    machine: Option<Machine>,
}

impl Instance {
    fn running(machine: Machine) -> Self {
        Self { status: "RUNNING", machine: Some(machine) }
    }
}

/// What a path names.
enum Resource<'a> {
    Family { project: &'a str, family: &'a str },
    Instances { zone: &'a str },
    Instance { zone: &'a str, name: &'a str },
    GuestAttributes { zone: &'a str, name: &'a str },
    Operation { name: &'a str },
}

impl Compute {
    pub(crate) fn new(
        script: Script,
        machines: Option<Arc<Machines>>,
        permissions: Arc<Permissions>,
        tokens: Arc<Tokens>,
        complaints: Arc<Complaints>,
    ) -> Self {
        let own = Instance { status: "RUNNING", machine: None };
        let instances = match machines {
            None => BTreeMap::from([(whole_name(ZONE, INSTANCE), own)]),
            // A project in which a workflow makes its VMs.
            Some(_) => BTreeMap::new(),
        };
        let held = Arc::new(Mutex::new(Held { instances, ..Held::default() }));
        Self { script, machines, held, permissions, tokens, complaints }
    }

    /// The names of the instances that were deleted.
    pub(crate) fn deleted(&self) -> Vec<String> {
        self.held().deleted.clone()
    }

    /// The bodies of every insertion.
    pub(crate) fn ordered(&self) -> Vec<Value> {
        self.held().ordered.clone()
    }

    /// The names of the instances that are there.
    pub(crate) fn instances(&self) -> Vec<String> {
        self.held().instances.keys().filter_map(|name| Some(name.rsplit('/').next()?.to_owned())).collect()
    }

    pub(crate) async fn answer(&self, request: &Request) -> Reply {
        let Some(resource) = request.uri().path().strip_prefix("/compute/v1/").and_then(Resource::of) else {
            self.complaints.unknown(request);
            return Reply::Answer(Refusal::from(StatusCode::NOT_FOUND).into());
        };
        match self.script.next() {
            Some(answer) => answer.reply(|status| Refusal::from(status).into()),
            None => Reply::Answer(self.itself(request, &resource).await.unwrap_or_else(Response::from)),
        }
    }

    async fn itself(&self, request: &Request, resource: &Resource<'_>) -> Result<Response, Refusal> {
        self.tokens.check(request)?;
        let path = request.uri().path();
        let allowed = |permission| self.permissions.check(permission, path);
        match (request.method(), resource) {
            (&Method::GET, Resource::Family { project, family }) => {
                allowed("compute.images.getFromFamily").map(|()| image(project, family))
            }
            (&Method::POST, Resource::Instances { zone }) => {
                allowed("compute.instances.create")?;
                self.insert(zone, request.body()).await
            }
            (&Method::GET, Resource::Instance { zone, name }) => {
                allowed("compute.instances.get")?;
                let held = self.held();
                let instance =
                    held.instances.get(&whole_name(zone, name)).ok_or_else(|| missing(zone, name))?;
                let body = json!({ "kind": "compute#instance", "name": name, "status": instance.status });
                Ok(json(StatusCode::OK, &body))
            }
            (&Method::GET, Resource::GuestAttributes { zone, name }) => {
                allowed("compute.instances.getGuestAttributes")?;
                if request.uri().query() != Some("queryPath=longrun%2F") {
                    self.complaints.unknown(request);
                }
                self.guest_attributes(zone, name)
            }
            (&Method::DELETE, Resource::Instance { zone, name }) => {
                allowed("compute.instances.delete")?;
                self.delete(zone, name)
            }
            (&Method::GET, Resource::Operation { name }) => {
                allowed("compute.zoneOperations.get")?;
                let operation = self.held().operations.get(*name).cloned();
                operation
                    .map(|found| json(StatusCode::OK, &found))
                    .ok_or_else(|| StatusCode::NOT_FOUND.into())
            }
            _ => {
                self.complaints.unknown(request);
                Err(StatusCode::METHOD_NOT_ALLOWED.into())
            }
        }
    }

    /// Takes an order. What becomes of it is told by its operation.
    async fn insert(&self, zone: &str, body: &[u8]) -> Result<Response, Refusal> {
        let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
        let order: Value = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        let name = order["name"].as_str().filter(|name| is_name(name));
        let name =
            name.ok_or_else(|| bad(format!("Invalid value for field 'resource.name': '{}'", order["name"])))?;
        let Some(machines) = &self.machines else { return Err(StatusCode::NOT_FOUND.into()) };
        self.held().ordered.push(order.clone());
        if self.held().instances.contains_key(&whole_name(zone, name)) {
            let message = format!("The resource '{}' already exists", whole_name(zone, name));
            return Err(Refusal::new(StatusCode::CONFLICT, message));
        }
        let fate = machines.next_fate();
        let begun = self.begin("insert", zone, name);
        if fate == Fate::Refused {
            self.end(&begun, Some("ZONE_RESOURCE_POOL_EXHAUSTED"));
            return Ok(json(StatusCode::OK, &begun));
        }
        let stands = self.stands(zone, name);
        if fate == Fate::Late {
            let (machines, held) = (Arc::clone(machines), Arc::clone(&self.held));
            let (name, zone) = (name.to_owned(), zone.to_owned());
            tokio::spawn(async move {
                sleep(LATE).await;
                if let Ok(machine) = machines.boot(&name, &zone, &order, fate, stands).await {
                    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                    held.instances.insert(whole_name(&zone, &name), Instance::running(machine));
                }
            });
            return Err(StatusCode::SERVICE_UNAVAILABLE.into());
        }
        let booted = machines.boot(name, zone, &order, fate, stands).await;
        let machine =
            booted.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        self.held().instances.insert(whole_name(zone, name), Instance::running(machine));
        self.end(&begun, None);
        Ok(json(StatusCode::OK, &begun))
    }

    /// What the VM put up; that there is nothing is an error of the real service too.
    fn guest_attributes(&self, zone: &str, name: &str) -> Result<Response, Refusal> {
        let held = self.held();
        let instance = held.instances.get(&whole_name(zone, name)).ok_or_else(|| missing(zone, name))?;
        let put_up = instance.machine.as_ref().map(Machine::guest_attributes).unwrap_or_default();
        if put_up.is_empty() {
            let message = "The resource 'longrun/' of type 'Guest Attribute' was not found.";
            return Err(Refusal::new(StatusCode::NOT_FOUND, message));
        }
        let items =
            put_up.iter().map(|(key, value)| json!({ "namespace": "longrun", "key": key, "value": value }));
        let body = json!({
            "kind": "compute#guestAttributes",
            "queryPath": "longrun/",
            "queryValue": { "items": items.collect::<Vec<_>>() },
        });
        Ok(json(StatusCode::OK, &body))
    }

    /// Takes every VM away, as their deletion would, and waits for that.
    pub(crate) async fn delete_all(&self) {
        let machines: Vec<_> =
            self.held().instances.values_mut().filter_map(|instance| instance.machine.take()).collect();
        let mut deletions: JoinSet<_> = machines.into_iter().map(Machine::delete).collect();
        while deletions.join_next().await.is_some() {}
        self.held().instances.clear();
    }

    fn delete(&self, zone: &str, name: &str) -> Result<Response, Refusal> {
        let key = whole_name(zone, name);
        let mut held = self.held();
        let instance = held.instances.get_mut(&key).ok_or_else(|| missing(zone, name))?;
        let machine = instance.machine.take();
        held.deleted.push(name.to_owned());
        drop(held);
        let begun = self.begin("delete", zone, name);
        // The sandbox's own VM goes on for some seconds, and so does who asked for its end.
        if let Some(machine) = machine {
            let (shared, done) = (Arc::clone(&self.held), done(&begun, None));
            tokio::spawn(async move {
                machine.delete().await;
                let mut held = shared.lock().unwrap_or_else(PoisonError::into_inner);
                held.instances.remove(&key);
                held.operations.insert(operation_name(&done), done);
            });
        } else if self.machines.is_some() {
            self.held().instances.remove(&key);
            self.end(&begun, None);
        }
        Ok(json(StatusCode::OK, &begun))
    }

    /// Sets an instance to standing still, later.
    fn stands(&self, zone: &str, name: &str) -> impl FnOnce() + Send + 'static {
        let (held, key) = (Arc::clone(&self.held), whole_name(zone, name));
        move || {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(instance) = held.instances.get_mut(&key) {
                instance.status = "TERMINATED";
            }
        }
    }

    fn begin(&self, what: &str, zone: &str, name: &str) -> Value {
        let begun = operation(what, zone, name);
        self.held().operations.insert(operation_name(&begun), begun.clone());
        begun
    }

    fn end(&self, begun: &Value, error: Option<&str>) {
        let done = done(begun, error);
        self.held().operations.insert(operation_name(&done), done);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Resource<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let segments: Vec<_> = path.split('/').collect();
        match segments[..] {
            ["projects", project, "global", "images", "family", family] => {
                Some(Self::Family { project, family })
            }
            ["projects", _, "zones", zone, "instances"] => Some(Self::Instances { zone }),
            ["projects", _, "zones", zone, "instances", name] => Some(Self::Instance { zone, name }),
            ["projects", _, "zones", zone, "instances", name, "getGuestAttributes"] => {
                Some(Self::GuestAttributes { zone, name })
            }
            ["projects", _, "zones", _, "operations", name] => Some(Self::Operation { name }),
            _ => None,
        }
    }
}

fn whole_name(zone: &str, name: &str) -> String {
    format!("projects/{PROJECT}/zones/{zone}/instances/{name}")
}

/// RFC 1035, as Compute Engine has it.
fn is_name(name: &str) -> bool {
    let is_part = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(is_part)
        && !name.ends_with('-')
}

fn missing(zone: &str, name: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("The resource '{}' was not found", whole_name(zone, name)))
}

fn image(project: &str, family: &str) -> Response {
    let name = format!("{family}-18867-199-46");
    let image = json!({
        "kind": "compute#image",
        "family": family,
        "name": name,
        "selfLink": format!("{SELF}/projects/{project}/global/images/{name}"),
        "status": "READY",
    });
    json(StatusCode::OK, &image)
}

/// An operation as it stands when it was just asked for.
fn operation(what: &str, zone: &str, name: &str) -> Value {
    let operation = format!("operation-1795428000000-{:016x}", unique());
    let zone = format!("{SELF}/projects/{PROJECT}/zones/{zone}");
    let time = "2026-11-23T02:00:00.000-08:00";
    json!({
        "kind": "compute#operation",
        "id": unique().to_string(),
        "name": operation,
        "zone": zone,
        "operationType": what,
        "targetLink": format!("{zone}/instances/{name}"),
        "targetId": INSTANCE_ID.to_string(),
        "status": "RUNNING",
        "user": SERVICE_ACCOUNT,
        "progress": 0,
        "insertTime": time,
        "startTime": time,
        "selfLink": format!("{zone}/operations/{operation}"),
    })
}

fn operation_name(operation: &Value) -> String {
    operation["name"].as_str().unwrap_or_default().to_owned()
}

/// An operation that is over.
fn done(begun: &Value, error: Option<&str>) -> Value {
    let mut done = begun.clone();
    done["status"] = "DONE".into();
    done["progress"] = 100.into();
    done["endTime"] = "2026-11-23T02:00:09.000-08:00".into();
    if let Some(code) = error {
        let message = "The zone does not have enough resources available to fulfill the request.";
        done["error"] = json!({ "errors": [{ "code": code, "message": message }] });
        done["httpErrorStatusCode"] = 503.into();
        done["httpErrorMessage"] = "SERVICE UNAVAILABLE".into();
    }
    done
}
