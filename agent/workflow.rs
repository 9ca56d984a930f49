//! The workflow that waits: whether it will get the report, whether it still waits, and the orphan rule for the
//! day on which it does not.
//!
//! ```text
//!   preflight ──▶ watch ──▶ over ──▶ keep: a warning
//!                             │      stop-job: the job is stopped, and told of as ever
//!                             └────▶ delete-vm: the same, and once that is done the VM is deleted
//! ```
//!
//! Leaves out how the job is stopped, which is `supervise`'s, and what the callback itself answers, which is
//! `callback`'s.

use std::{sync::Arc, time::Duration};

use tokio::sync::SetOnce;

use crate::{
    callback::Undelivered,
    google::{
        Account, Api, ApiError, Vm, compute,
        executions::{Execution, State},
    },
    http,
    job::{Preflight, WhenOrphaned},
    preflight::{self, Finding},
    supervise::{Cause, StopHandle},
};

/// Whether the job may start, once that is known, or what forbids it.
pub(crate) type Gate = SetOnce<Result<(), String>>;

/// The gate of a preflight; open where none is required.
pub(crate) fn gate(preflight: Preflight) -> Gate {
    match preflight {
        Preflight::Require => Gate::new(),
        Preflight::Warn | Preflight::Off => Gate::new_with(Some(Ok(()))),
    }
}

/// Whom the agent works for, and what it was told to do when he is gone.
pub(crate) struct Workflow {
    pub(crate) vm: Vm,
    pub(crate) api: Api,
    /// `None` for a callback that is not a workflow's.
    pub(crate) execution: Option<Execution>,
    /// `Off` too where there is nothing to look at.
    pub(crate) preflight: Preflight,
    /// What the job waits for before it starts.
    pub(crate) gate: Gate,
    pub(crate) when_orphaned: WhenOrphaned,
}

impl Workflow {
    /// Looks whether the report will get through, opens the gate, and then watches the execution, some `every`
    /// apart, until it is over.
    pub(crate) async fn mind(self: Arc<Self>, every: Duration, stop: StopHandle) {
        let over = match self.look().await {
            Finding::Over(how) => Some(how),
            Finding::Missing(missing) => {
                self.open(Err(missing));
                self.watch(every).await
            }
            Finding::Ready | Finding::Unknown(_) => {
                self.open(Ok(()));
                self.watch(every).await
            }
        };
        if let Some(how) = over {
            self.on_over(&how, &stop);
        }
    }

    fn open(&self, passed: Result<(), String>) {
        // Where nothing is required it is open already.
        let _ = self.gate.set(passed);
    }

    /// The preflight.
    async fn look(&self) -> Finding {
        if self.preflight == Preflight::Off {
            return Finding::Ready;
        }
        let found = preflight::look(&self.vm, &self.api.tokens, self.execution.as_ref()).await;
        match &found {
            Finding::Missing(missing) => {
                tracing::error!("the report may not reach the workflow: {missing}");
            }
            Finding::Unknown(why) => {
                tracing::warn!(why, "whether the report will reach the workflow is not known");
            }
            Finding::Ready | Finding::Over(_) => {}
        }
        found
    }

    /// How the execution ended; `None` where that cannot be seen.
    async fn watch(&self, every: Duration) -> Option<String> {
        let execution = self.execution.as_ref()?;
        let how = execution.watch(every).await;
        if how.is_none() {
            let why = preflight::may_not_see(self.vm.account.as_ref(), execution.project());
            tracing::warn!("if the workflow is cancelled, that will not be seen before the job ends: {why}");
        }
        how
    }

    fn on_over(&self, how: &str, stop: &StopHandle) {
        let rule = self.when_orphaned;
        tracing::warn!(how, ?rule, "the workflow's execution is over: nobody waits for the job");
        match rule {
            WhenOrphaned::Keep => self.open(Ok(())),
            WhenOrphaned::StopJob | WhenOrphaned::DeleteVm => stop.ask(Cause::Orphaned),
        }
    }

    /// What is left to do for an agent that could not tell anybody.
    pub(crate) async fn forsaken(&self, why: &Undelivered) {
        if self.when_orphaned != WhenOrphaned::DeleteVm || !self.may_delete(why).await {
            return;
        }
        let Some(instance) = &self.vm.instance else {
            tracing::warn!("longrun-when-orphaned is delete-vm, but this is no VM of Compute Engine");
            return;
        };
        match compute::delete(&self.api, instance).await {
            Ok(operation) => tracing::warn!(operation, "the VM is being deleted"),
            Err(error) => {
                let why = not_deleted(&error, self.vm.account.as_ref(), &instance.project);
                tracing::error!("the VM was not deleted: {why}");
            }
        }
    }

    /// What cannot be undone is done when the deadline passed, or when the execution is seen to be over just then:
    /// a callback's 404 alone proves too little.
    async fn may_delete(&self, why: &Undelivered) -> bool {
        match (why, &self.execution) {
            (Undelivered::Expired { .. }, _) => true,
            (Undelivered::Gone, Some(execution)) => match execution.state().await {
                State::Over(_) => true,
                state => {
                    tracing::warn!(?state, "the VM stays: whether the workflow is gone is not sure");
                    false
                }
            },
            (Undelivered::Gone, None) | (Undelivered::Stopped { .. }, _) => false,
        }
    }
}

fn not_deleted(error: &ApiError, account: Option<&Account>, project: &str) -> String {
    let why = http::chain(error);
    match error.status() {
        Some(reqwest::StatusCode::FORBIDDEN) => {
            let grant = preflight::grant(account, project, "roles/compute.instanceAdmin.v1");
            format!("{why}; the service account needs compute.instances.delete; run: {grant}")
        }
        _ => why,
    }
}
