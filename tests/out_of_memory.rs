//! Out of memory: told with what the kernel counted, and never at the agent's cost.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{fs, path::Path, process::Command};

use machinery::{GIVEN, Given, run, start};
use serde_json::{Value, json};

#[tokio::test]
async fn a_job_that_lost_a_child_is_told_by_how_it_ended_itself() {
    for (code, reason, message) in [
        (3, "OOMKilled", "a process of the job was killed for want of memory (limit 32 MiB"),
        (0, "Completed", "the job completed"),
    ] {
        // A job of a few milliseconds would be over before anybody could look.
        let command = format!("docker run -m 32m IMAGE pause 500 fork-hog pause 500 exit {code}");
        let report = run(Given { command: &command, ..GIVEN }).await.report();
        assert_eq!(report["logs"]["tail"], "the child ended: signal: 9 (SIGKILL)\n");
        told(&report, reason, code, message);
    }
}

#[tokio::test]
async fn on_cgroup_v2_the_kill_of_a_child_is_told_though_the_cgroup_is_gone() {
    let vm = tempfile::tempdir().unwrap();
    let (cgroups, may_end) = (vm.path().join("cgroups"), vm.path().join("may-end"));
    fs::create_dir(&cgroups).unwrap();
    assert!(Command::new("mkfifo").arg(&may_end).status().unwrap().success());
    let under = with_mounted(&cgroups, r#"mount --bind "$0" /sys/fs/cgroup && exec "$@""#);
    let command = format!("docker run -v {}:/vm IMAGE cat /vm/may-end exit 1", vm.path().display());

    let mut agent = start(Given { command: &command, under: &under, ..GIVEN }).await;
    let container = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
    // Only now can the cgroup be made, and only an agent that takes over finds it.
    let cgroup = cgroups.join("docker").join(container);
    let mut agent = agent.killed_and_started_after(|| make_cgroup(&cgroup)).await;
    agent.says("the job runs").await;
    fs::write(cgroup.join("memory.events"), "max 7\noom 1\noom_kill 1\n").unwrap();
    agent.says("a process of the job was killed for want of memory").await;
    fs::remove_dir_all(&cgroup).unwrap();
    fs::write(&may_end, "").unwrap();

    let message = "a process of the job was killed for want of memory (limit 32 MiB, peak 31 MiB), and the job exited with code 1";
    told(&agent.ended().await.report(), "OOMKilled", 1, message);
}

#[tokio::test]
async fn the_job_is_the_first_to_be_killed_unless_its_command_says_otherwise() {
    for (flag, score) in [("", "1000\n"), ("--oom-score-adj 0", "0\n"), ("--oom-score-adj 500", "500\n")] {
        let command = format!("docker run {flag} IMAGE cat /proc/self/oom_score_adj");
        let report = run(Given { command: &command, ..GIVEN }).await.report();
        assert_eq!(report["logs"]["tail"], score, "{flag}");
    }
}

#[tokio::test]
async fn the_agent_lowers_its_own_score_as_far_as_it_may() {
    let raised = "echo 500 > /proc/self/oom_score_adj && ";
    let may_lower_to = |score: &&str| {
        let lower = format!("{raised} echo {score} > /proc/self/oom_score_adj");
        Command::new("sh").args(["-c", &lower]).output().unwrap().status.success()
    };
    let lowest = ["-900", "0"].into_iter().find(may_lower_to).unwrap_or("500");

    let exec = format!("{raised} exec \"$@\"");
    let given = Given { command: "docker run IMAGE wait", under: &["sh", "-c", &exec, "sh"], ..GIVEN };
    let mut agent = start(given).await;
    agent.says("the job runs").await;
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", agent.id())).unwrap();
    agent.signal("TERM");
    agent.ended().await.report();
    assert_eq!(score.trim(), lowest);
}

#[tokio::test]
async fn the_agent_asks_to_be_spared_and_leaves_a_lower_score_alone() {
    for (before, after) in [("0\n", "-900"), ("-900\n", "-900\n"), ("-1000\n", "-1000\n")] {
        let score = tempfile::NamedTempFile::new().unwrap();
        fs::write(score.path(), before).unwrap();
        let under = with_mounted(score.path(), r#"mount --bind "$0" /proc/$$/oom_score_adj && exec "$@""#);
        run(Given { under: &under, ..GIVEN }).await.report();
        assert_eq!(fs::read_to_string(score.path()).unwrap(), after, "{before}");
    }
}

/// Words that run the agent where `mount`, a line of shell, has mounted `file`, its `$0`.
fn with_mounted<'a>(file: &'a Path, mount: &'a str) -> [&'a str; 7] {
    ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, file.to_str().unwrap()]
}

/// The files of a container's cgroup v2 that nothing happened to yet.
fn make_cgroup(cgroup: &Path) {
    fs::create_dir_all(cgroup).unwrap();
    for (file, content) in [
        ("memory.events", "max 0\noom 0\noom_kill 0\n"),
        ("memory.max", "33554432\n"),
        ("memory.peak", "33550336\n"),
    ] {
        fs::write(cgroup.join(file), content).unwrap();
    }
}

#[track_caller]
fn told(report: &Value, reason: &str, code: u8, message: &str) {
    assert_eq!((&report["reason"], &report["exitCode"]), (&json!(reason), &json!(code)), "{report:#}");
    assert!(report["message"].as_str().unwrap().starts_with(message), "{report:#}");
}
