//! Whether the report will reach the workflow: looked at in the first seconds rather than on the last day.
//!
//! Pure but for [`look`]. Leaves out what follows, and what only the delivery itself can show: that the account
//! may call the callback.

use std::time::Duration;

use gcp_auth::TokenProvider;
use tokio::time::{Instant, sleep};

use crate::{
    backoff,
    google::{
        Account, SCOPES, Tokens, Vm,
        executions::{Execution, State},
    },
    http,
    report::Instance,
};

/// For a service that is away: nobody's job waits longer for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing is missing.
    Ready,
    /// The execution is over, and how.
    Over(String),
    /// The report would not get through; what is missing, and what to do about it.
    Missing(String),
    /// Nobody can tell, and why.
    Unknown(String),
}

/// Looks at what a callback needs that takes an access token. `execution` is the one behind it.
pub(crate) async fn look(vm: &Vm, tokens: &Tokens, execution: Option<&Execution>) -> Finding {
    if let Some(instance) = &vm.instance
        && let Some(missing) = missing_on_vm(vm.account.as_ref(), instance)
    {
        return Finding::Missing(missing);
    }
    if let Err(error) = tokens.token(SCOPES).await {
        return Finding::Missing(http::chain(&error));
    }
    let Some(execution) = execution else { return Finding::Ready };
    match known_state(execution).await {
        State::Active => Finding::Ready,
        State::Over(how) => Finding::Over(how),
        State::Denied => Finding::Missing(may_not_see(vm.account.as_ref(), execution.project())),
        State::Unknown(why) => Finding::Unknown(why),
    }
}

/// The state, from a service that may be away for a moment.
async fn known_state(execution: &Execution) -> State {
    let deadline = Instant::now() + PATIENCE;
    let mut delays = backoff::delays(Duration::from_secs(1), Duration::from_secs(5));
    loop {
        let state = execution.state().await;
        let delay = delays.next().unwrap_or(PATIENCE);
        if !matches!(state, State::Unknown(_)) || Instant::now() + delay >= deadline {
            return state;
        }
        sleep(delay).await;
    }
}

/// What a VM lacks that was created without a service account, or without the scope.
fn missing_on_vm(account: Option<&Account>, instance: &Instance) -> Option<String> {
    let Instance { name, zone, .. } = instance;
    let command = format!("gcloud compute instances set-service-account {name} --zone={zone}");
    match account {
        None => Some(format!(
            "this VM has no service account, so there is no token for the callback; create VMs with one, or stop \
             this one and run: {command} --service-account=ACCOUNT --scopes=cloud-platform"
        )),
        Some(account) if !account.scopes.iter().any(|scope| SCOPES.contains(&scope.as_str())) => {
            Some(format!(
                "this VM's access tokens lack the scope cloud-platform, which the callback needs; create VMs with it, \
             or stop this one and run: {command} --scopes=cloud-platform"
            ))
        }
        Some(_) => None,
    }
}

/// The service account may not see the execution that it is to report to.
pub(crate) fn may_not_see(account: Option<&Account>, project: &str) -> String {
    let grant = grant(account, project, "roles/workflows.invoker");
    format!(
        "the service account may not see the workflow's execution (workflows.executions.get), and perhaps not \
         call its callback either (workflows.callbacks.send); run: {grant}"
    )
}

/// The command that grants a role.
pub(crate) fn grant(account: Option<&Account>, project: &str, role: &str) -> String {
    let member = account.map_or("ACCOUNT", |account| &account.email);
    format!("gcloud projects add-iam-policy-binding {project} --member=serviceAccount:{member} --role={role}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vm_lacks_is_told_with_the_command_that_mends_it() {
        let instance = Instance {
            name: "vm".to_owned(),
            id: "1".to_owned(),
            zone: "z".to_owned(),
            project: "p".to_owned(),
            machine_type: String::new(),
        };
        let missing = |account: Option<&Account>| missing_on_vm(account, &instance);
        let with = |scopes: &[&str]| Account {
            email: "a@b".to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        assert_eq!(missing(Some(&with(&["x", SCOPES[0]]))), None);
        for (account, expected) in [
            (
                Some(with(&["https://www.googleapis.com/auth/devstorage.read_only"])),
                "--scopes=cloud-platform",
            ),
            (Some(with(&[])), "--scopes=cloud-platform"),
            (None, "--service-account=ACCOUNT --scopes=cloud-platform"),
        ] {
            let command = format!("gcloud compute instances set-service-account vm --zone=z {expected}");
            let told = missing(account.as_ref()).unwrap();
            assert!(told.ends_with(&command), "{told}");
        }
    }

    #[test]
    fn a_role_is_granted_to_the_vms_own_account() {
        let account = Account { email: "a@b".to_owned(), scopes: Vec::new() };
        let command = "gcloud projects add-iam-policy-binding p --member=serviceAccount:a@b --role=r";
        assert_eq!(grant(Some(&account), "p", "r"), command);
    }
}
