//! The VM that the agent finds itself on, as its metadata server tells of it.

use crate::tree::{Names, Node};

/// The project that the VM is in.
pub const PROJECT: &str = "longrun-sandbox";
/// Its number.
pub const PROJECT_NUMBER: u64 = 421_337_000_421;
/// The VM's name.
pub const INSTANCE: &str = "longrun-vm";
/// The VM's id: beyond what a double holds exactly, as the real ones are.
pub const INSTANCE_ID: u64 = 7_723_260_132_568_912_421;
/// The VM's zone.
pub const ZONE: &str = "europe-west1-b";
/// The VM's machine type.
pub const MACHINE_TYPE: &str = "e2-small";
/// The service account of the VM.
pub const SERVICE_ACCOUNT: &str = "longrun@longrun-sandbox.iam.gserviceaccount.com";

/// Which VM it is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) zone: String,
    pub(crate) machine_type: String,
}

impl Default for Identity {
    fn default() -> Self {
        let [name, zone, machine_type] = [INSTANCE, ZONE, MACHINE_TYPE].map(str::to_owned);
        Self { name, id: INSTANCE_ID, zone, machine_type }
    }
}

/// Whether the VM has a service account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    Present,
    Absent,
}

/// All that the metadata server holds of a VM that has no attributes yet.
pub(crate) fn values(identity: &Identity, account: Account, scopes: &[String]) -> Node {
    let mut instance = instance(identity);
    match account {
        Account::Absent => {}
        Account::Present => {
            let accounts = [("default", service_account(scopes)), (SERVICE_ACCOUNT, service_account(scopes))];
            instance.set(&["service-accounts"], Some(Node::folder(Names::Verbatim, accounts)));
        }
    }
    let project = [
        ("attributes", Node::folder(Names::Verbatim, [])),
        ("numeric-project-id", Node::Number(PROJECT_NUMBER)),
        ("project-id", Node::text(PROJECT)),
    ];
    let universe = [("universe-domain", Node::text("googleapis.com"))];
    let all = [
        ("instance", instance),
        ("project", Node::folder(Names::Google, project)),
        ("universe", Node::folder(Names::Google, universe)),
    ];
    Node::folder(Names::Google, all)
}

fn instance(identity: &Identity) -> Node {
    let Identity { name, id, zone, machine_type } = identity;
    let of_project = |kind: &str, name: &str| Node::text(format!("projects/{PROJECT_NUMBER}/{kind}/{name}"));
    let values = [
        ("attributes", Node::folder(Names::Verbatim, [])),
        ("cpu-platform", Node::text("AMD Rome")),
        ("description", Node::text("")),
        ("guest-attributes", Node::folder(Names::Verbatim, [])),
        ("hostname", Node::text(format!("{name}.{zone}.c.{PROJECT}.internal"))),
        ("id", Node::Number(*id)),
        ("image", Node::text("projects/cos-cloud/global/images/cos-121-18867-199-46")),
        ("machine-type", of_project("machineTypes", machine_type)),
        ("maintenance-event", Node::text("NONE")),
        ("name", Node::text(name.as_str())),
        ("preempted", Node::text("FALSE")),
        ("tags", Node::List(vec!["longrun".to_owned()])),
        ("zone", of_project("zones", zone)),
    ];
    Node::folder(Names::Google, values)
}

fn service_account(scopes: &[String]) -> Node {
    let values = [
        ("aliases", Node::Lines(vec!["default".to_owned()])),
        ("email", Node::text(SERVICE_ACCOUNT)),
        ("identity", Node::Live),
        ("scopes", Node::Lines(scopes.to_vec())),
        ("token", Node::Live),
    ];
    Node::folder(Names::Google, values)
}
