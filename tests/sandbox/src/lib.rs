//! Google Cloud on this machine, as far as longrun-agent sees it.
//!
//! A [`Sandbox`] is one HTTP server on one address that stands for everything the agent talks to: the
//! metadata server of the VM, the services of googleapis.com, and the web server of somebody else who
//! wants a callback. Nothing in the agent is replaced: it is told the address by the environment variables
//! that [`Sandbox::environment`] names, and sends what it would send to Google.
//!
//! ```text
//!            /, /computeMetadata/…                        metadata.rs ─┐ issues
//! agent ──►  X-Forwarded-Host: <service>.googleapis.com   executions.rs│──── token.rs, iam.rs
//!                                      compute.rs, logging.rs          │
//!                                                      secret_manager.rs
//!                                                             storage.rs
//!            /callback/<id>                               callback.rs ─┘ checks
//! workflow ► /events/…                                    events.rs
//! ```
//!
//! The fakes speak the protocol with its statuses, headers and error bodies, record what they saw, and
//! note what nobody should have sent: a test ends by asking that [`Sandbox::complaints`] is empty. Time
//! does not pass by itself: a token ages when a test says so, a slot empties when a test says so.
//!
//! [`job`] has an image to run where nothing can be pulled, and [`tools`] finds the programs of others that
//! the suites use as judges.
//!
//! [`workflow`] runs one of Google's Workflows against it, whose VMs are made in `machines.rs`: agents with sandboxes of
//! their own.
//!
//! Leaves out quotas and TLS.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

mod builder;

mod metadata;
mod tree;
mod vm;

mod token;

mod callback;
mod compute;
mod events;
mod executions;
mod google;
mod iam;
mod logging;
mod secret_manager;
mod storage;

mod machines;

mod script;
mod server;

pub mod job;
pub mod tools;
pub mod workflow;

pub use builder::Builder;
pub use callback::Call;
pub use machines::{Fate, agent_within};
pub use script::Answer;
pub use storage::{BUCKET, Mishap, Object};
pub use vm::{INSTANCE, INSTANCE_ID, MACHINE_TYPE, PROJECT, PROJECT_NUMBER, SERVICE_ACCOUNT, ZONE};

use callback::Calls;
use executions::State;
use secret_manager::Version;
use server::{Cloud, Server};

/// Google Cloud on this machine, for one VM with one workflow that waits for it. It is gone when dropped.
#[derive(Debug)]
pub struct Sandbox {
    cloud: Arc<Cloud>,
    calls: Arc<Calls>,
    server: Server,
}

/// Where things are.
impl Sandbox {
    /// A sandbox as you say, and otherwise one where all goes well.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// What an agent needs in its environment to be here instead of on a VM.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("GCE_METADATA_HOST", self.address().to_string()),
            ("LONGRUN_GOOGLE_ENDPOINT", format!("http://{}", self.address())),
        ]
    }

    /// The callback endpoint of the workflow, an address of Google's. No two sandboxes have the same.
    #[must_use]
    pub fn callback_url(&self) -> String {
        self.cloud.executions.callback_url()
    }

    /// The callback of somebody who is not Google.
    #[must_use]
    pub fn plain_callback_url(&self) -> String {
        format!("http://{}{}", self.address(), self.cloud.plain_callback.path())
    }
}

/// The VM.
impl Sandbox {
    /// Sets an attribute of the instance, and wakes who waits for a change.
    pub fn set_attribute(&self, key: &str, value: &str) {
        self.set_metadata(&format!("instance/attributes/{key}"), value);
    }

    /// Removes an attribute of the instance.
    pub fn remove_attribute(&self, key: &str) {
        self.cloud.metadata.set(&format!("instance/attributes/{key}"), None);
    }

    /// Sets any value by its path, `instance/preempted` say.
    pub fn set_metadata(&self, path: &str, value: &str) {
        self.cloud.metadata.set(path, Some(value));
    }

    /// A value of the metadata server as text, such as a guest attribute that the agent wrote.
    #[must_use]
    pub fn metadata(&self, path: &str) -> Option<String> {
        self.cloud.metadata.get(path)
    }

    /// Makes every access token so much older. The metadata server renews one that has five minutes left.
    pub fn age_token(&self, by: Duration) {
        self.cloud.tokens.age(by);
    }

    /// Makes every access token expired: services answer 401, and the metadata server has a new one.
    pub fn expire_token(&self) {
        self.cloud.tokens.expire();
    }

    /// Makes services drop every token so far. The metadata server does not know, and goes on handing out
    /// the same one until [`Sandbox::expire_token`].
    pub fn revoke_token(&self) {
        self.cloud.tokens.revoke();
    }
}

/// The workflow.
impl Sandbox {
    /// The workflow awaits its callback once: what was in the slot, if anything was.
    pub fn consume_callback(&self) -> Option<Value> {
        self.cloud.executions.consume()
    }

    /// Somebody else calls the callback: this is in the slot then.
    pub fn fill_callback(&self, payload: &str) {
        self.cloud.executions.fill(payload);
    }

    /// An outage of both callbacks begins or is over: while it lasts every call is answered 503.
    pub fn set_callback_outage(&self, outage: bool) {
        self.calls.set_away(outage);
    }

    /// The execution ends well. Its callback is gone: 404 from then on.
    pub fn end_execution(&self) {
        self.cloud.executions.end(State::Succeeded);
    }

    /// Somebody cancels the execution. Its callback is gone: 404 from then on.
    pub fn cancel_execution(&self) {
        self.cloud.executions.end(State::Cancelled);
    }

    /// The execution is gone without a trace: 404 from then on, as its callback is.
    pub fn forget_execution(&self) {
        self.cloud.executions.end(State::Forgotten);
    }
}

/// The project.
impl Sandbox {
    /// Adds a version to a secret; it is the latest from now on.
    pub fn add_secret_version(&self, secret: &str, value: impl AsRef<[u8]>) {
        self.cloud.secret_manager.add_version(secret, Version::Enabled(value.as_ref().to_vec()));
    }
}

/// Cloud Storage.
impl Sandbox {
    /// Every object in [`BUCKET`], by name.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        self.cloud.storage.objects()
    }

    /// Puts an object there, as somebody else would have.
    pub fn put_object(&self, name: &str, bytes: &[u8]) {
        self.cloud.storage.put(name, bytes);
    }
}

/// What came in.
impl Sandbox {
    /// Every call of either callback in order, whatever it was answered.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.calls.all()
    }

    /// The bodies of the calls that were accepted, as a workflow sees them.
    #[must_use]
    pub fn reports(&self) -> Vec<Value> {
        self.calls().iter().filter(|call| call.was_accepted()).map(Call::report).collect()
    }

    /// The next call, whatever it is answered: each is told once, and those that came before count.
    pub async fn next_call(&self) -> Call {
        self.calls.next_call().await
    }

    /// The next accepted report: each is told once, and those that came before count.
    pub async fn next_report(&self) -> Value {
        self.calls.next_report().await.report()
    }

    /// What a reader of Cloud Logging sees, by time: every entry with what its request said for all.
    #[must_use]
    pub fn log_entries(&self) -> Vec<Value> {
        self.cloud.logging.entries()
    }

    /// Every body that was sent to Cloud Logging, whatever was answered.
    #[must_use]
    pub fn log_requests(&self) -> Vec<Value> {
        self.cloud.logging.requests()
    }

    /// The next accepted call, as [`Sandbox::next_report`] has its body.
    pub async fn next_accepted_call(&self) -> Call {
        self.calls.next_report().await
    }

    /// Every order of a VM in order, as the workflow sent it, whatever was answered.
    #[must_use]
    pub fn ordered_instances(&self) -> Vec<Value> {
        self.cloud.compute.ordered()
    }

    /// The VMs that are there, by their names. Those that are left when this is dropped go with it.
    #[must_use]
    pub fn instances(&self) -> Vec<String> {
        self.cloud.compute.instances()
    }

    /// Takes every VM away with what runs on it, as their deletion would.
    pub async fn delete_instances(&self) {
        self.cloud.compute.delete_all().await;
    }

    /// Every access token that was handed out, to look for where none may be.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.cloud.tokens.all()
    }

    /// Every request in order, a line each: method, host of Google's if one was meant, path.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.cloud.requests.all()
    }

    /// Waits until this stood in the lines of so many requests; those that came before count.
    pub async fn requested(&self, times: usize, text: &str) {
        self.cloud.requests.wait(times, text).await;
    }

    /// The names of the instances whose deletion was asked for and granted.
    #[must_use]
    pub fn deleted_instances(&self) -> Vec<String> {
        self.cloud.compute.deleted()
    }

    /// What came in that nobody should have sent; empty after a good run.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.cloud.complaints.all()
    }
}

/// A number that nobody had before.
fn unique() -> u64 {
    RandomState::new().hash_one(())
}
