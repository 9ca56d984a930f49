//! Promise 5, "No open port": an agent that runs a job listens nowhere.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{collections::HashSet, fs};

use machinery::{GIVEN, Given, start};

#[tokio::test]
async fn an_agent_that_runs_a_job_listens_nowhere() {
    let mut agent = start(Given { command: "docker run IMAGE wait", ..GIVEN }).await;
    agent.says("the job runs").await;
    let sockets = sockets_of(agent.id());
    assert!(!sockets.is_empty(), "it speaks to the Engine");
    assert_eq!(listening().intersection(&sockets).count(), 0);
    assert!(
        listening().intersection(&sockets_of(std::process::id())).count() > 0,
        "the sandbox listens here"
    );
    agent.signal("TERM");
    agent.ended().await.report();
}

/// The inodes of a process' sockets.
fn sockets_of(id: u32) -> HashSet<String> {
    let files = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let inode = |target: std::path::PathBuf| {
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    targets.filter_map(inode).collect()
}

/// The inodes of all sockets that listen, of TCP (state 0A), or are bound, of UDP.
fn listening() -> HashSet<String> {
    let mut inodes = HashSet::new();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[3] == state {
                inodes.insert(fields[9].to_owned());
            }
        }
    }
    inodes
}
