//! How a sandbox shall be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hyper::Method;
use tokio::net::TcpListener;

use crate::callback::{Calls, PlainCallback};
use crate::compute::Compute;
use crate::executions::{Executions, Workflow};
use crate::iam::Permissions;
use crate::logging::Logging;
use crate::machines::{Fate, Machines};
use crate::metadata::Metadata;
use crate::script::Script;
use crate::secret_manager::{Secret, SecretManager, Version};
use crate::server::{Cloud, Complaints, Requests, Server};
use crate::storage::{Mishap, Storage};
use crate::token::{CLOUD_PLATFORM, Tokens};
use crate::vm::{Account, Identity};
use crate::{Answer, Sandbox};

/// How a sandbox shall be.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    address: SocketAddr,
    listener: Option<std::net::TcpListener>,
    attributes: Vec<(String, String)>,
    account: Account,
    scopes: Vec<String>,
    metadata_answers: Vec<Answer>,
    guest_attribute_answers: Vec<Answer>,
    callback_answers: Vec<Answer>,
    logging_answers: Vec<Answer>,
    refused_entries: Option<String>,
    callback_method: Method,
    workflow: Workflow,
    secrets: BTreeMap<String, Secret>,
    secret_answers: Vec<Answer>,
    execution_answers: Vec<Answer>,
    compute_answers: Vec<Answer>,
    missing_permissions: Vec<String>,
    identity: Identity,
    callback_url: Option<String>,
    machines: Option<Machines>,
    storage: Option<Answer>,
    mishaps: BTreeMap<usize, Mishap>,
}

impl Builder {
    /// At this address; without it on any free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// With a listener that is open already, in another network for example.
    pub fn listener(mut self, listener: std::net::TcpListener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// With this attribute of the instance.
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    /// On a VM that has no service account: no token, and no service takes any.
    pub fn without_service_account(mut self) -> Self {
        self.account = Account::Absent;
        self
    }

    /// With these scopes instead of `cloud-platform`, without which no service answers.
    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self
    }

    /// The first requests to the metadata server get these, then it is itself.
    pub fn metadata_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.metadata_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// The first guest attributes that are written get these, then they are taken if the VM allows them.
    pub fn guest_attribute_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.guest_attribute_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// The first calls of the callback get these, then it is itself.
    pub fn callback_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.callback_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// Every request to Cloud Storage gets this.
    pub fn storage_answer(mut self, answer: impl Into<Answer>) -> Self {
        self.storage = Some(answer.into());
        self
    }

    /// The request to Cloud Storage with this number, from one, fares so.
    pub fn storage_mishap(mut self, number: usize, mishap: Mishap) -> Self {
        self.mishaps.insert(number, mishap);
        self
    }

    /// The first requests to Cloud Logging get these, then it is itself. A 200 is not its own, but a proxy's page.
    pub fn logging_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.logging_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// Cloud Logging refuses the entries whose payload has this in it, and takes those beside them.
    pub fn refuses_entries_with(mut self, text: &str) -> Self {
        self.refused_entries = Some(text.to_owned());
        self
    }

    /// The `http_callback_method` of the callback endpoint; POST without it.
    ///
    /// # Panics
    /// When it is no method of HTTP.
    pub fn callback_method(mut self, method: &str) -> Self {
        self.callback_method = method.parse().expect("a method of HTTP");
        self
    }

    /// The workflow does not await its callback before [`Sandbox::consume_callback`]: the first report
    /// stays in the slot and the second finds it full.
    pub fn unawaited_callback(mut self) -> Self {
        self.workflow = Workflow::IsBusy;
        self
    }

    /// With this value as the next version of a secret.
    pub fn secret(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.version(name, Version::Enabled(value.as_ref().to_vec()))
    }

    /// With a next version of a secret that was disabled.
    pub fn disabled_secret(self, name: &str) -> Self {
        self.version(name, Version::Disabled)
    }

    /// With a next version of a secret that was destroyed.
    pub fn destroyed_secret(self, name: &str) -> Self {
        self.version(name, Version::Destroyed)
    }

    /// With a secret that the VM's service account may not read.
    pub fn forbidden_secret(mut self, name: &str) -> Self {
        self.secrets.entry(name.to_owned()).or_default().forbidden = true;
        self
    }

    /// The first readings of secrets get these, then Secret Manager is itself.
    pub fn secret_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.secret_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    fn version(mut self, name: &str, version: Version) -> Self {
        self.secrets.entry(name.to_owned()).or_default().versions.push(version);
        self
    }

    /// Who asks first for the execution, or for what its callbacks hold, gets these, then the service is itself.
    pub fn execution_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.execution_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// The first requests to Compute Engine get these, then it is itself.
    pub fn compute_answers(mut self, answers: impl IntoIterator<Item = impl Into<Answer>>) -> Self {
        self.compute_answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// With a service account that lacks this permission, such as `workflows.executions.get`.
    pub fn without_permission(mut self, permission: &str) -> Self {
        self.missing_permissions.push(permission.to_owned());
        self
    }

    /// The VMs that are inserted run this: the words of a command that is the agent. These things happen to them, one
    /// each.
    pub fn boots(mut self, agent: Vec<OsString>, fates: impl IntoIterator<Item = Fate>) -> Self {
        self.machines = Some(Machines::new(agent, fates.into_iter().collect()));
        self
    }

    /// As this VM.
    pub(crate) fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// With the callback of the workflow at this address.
    pub(crate) fn callback_at(mut self, url: &str) -> Self {
        self.callback_url = Some(url.to_owned());
        self
    }

    /// Opens the address and serves it on a task of the runtime that this runs in.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start(self) -> io::Result<Sandbox> {
        let listener = match self.listener {
            None => TcpListener::bind(self.address).await?,
            Some(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?
            }
        };
        let complaints = Arc::<Complaints>::default();
        let tokens = Arc::new(Tokens::new(self.scopes));
        let calls = Arc::new(Calls::new(self.callback_method, Script::new(self.callback_answers)));
        let permissions = Arc::new(Permissions::all_but(self.missing_permissions));
        let scripts = [self.metadata_answers, self.guest_attribute_answers].map(Script::new);
        let secret_script = Script::new(self.secret_answers);
        let reads = Script::new(self.execution_answers);
        let deletions = Script::new(self.compute_answers);
        let machines = self.machines.map(Arc::new);
        let logging_script = Script::new(self.logging_answers);
        let logging = Logging::new(logging_script, self.refused_entries, tokens.clone(), complaints.clone());
        let cloud = Arc::new(Cloud {
            metadata: Metadata::new(
                &self.identity,
                self.account,
                scripts,
                tokens.clone(),
                complaints.clone(),
            ),
            plain_callback: PlainCallback::new(calls.clone(), complaints.clone()),
            executions: Executions::new(
                self.callback_url.as_deref(),
                self.workflow,
                calls.clone(),
                reads,
                permissions.clone(),
                tokens.clone(),
                complaints.clone(),
            ),
            compute: Compute::new(
                deletions,
                machines.clone(),
                permissions,
                tokens.clone(),
                complaints.clone(),
            ),
            secret_manager: SecretManager::new(
                self.secrets,
                secret_script,
                tokens.clone(),
                complaints.clone(),
            ),
            logging,
            storage: Storage::new(self.storage, self.mishaps, tokens.clone(), complaints.clone()),
            events: machines.map(|machines| Arc::clone(&machines.events)).unwrap_or_default(),
            tokens,
            complaints,
            requests: Requests::default(),
        });
        let server = Server::start(listener, cloud.clone())?;
        let sandbox = Sandbox { cloud, calls, server };
        self.attributes.iter().for_each(|(key, value)| sandbox.set_attribute(key, value));
        Ok(sandbox)
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            listener: None,
            attributes: Vec::new(),
            account: Account::Present,
            scopes: vec![CLOUD_PLATFORM.to_owned()],
            metadata_answers: Vec::new(),
            guest_attribute_answers: Vec::new(),
            callback_answers: Vec::new(),
            logging_answers: Vec::new(),
            refused_entries: None,
            callback_method: Method::POST,
            workflow: Workflow::Awaits,
            secrets: BTreeMap::new(),
            secret_answers: Vec::new(),
            execution_answers: Vec::new(),
            compute_answers: Vec::new(),
            missing_permissions: Vec::new(),
            identity: Identity::default(),
            callback_url: None,
            machines: None,
            storage: None,
            mishaps: BTreeMap::new(),
        }
    }
}
