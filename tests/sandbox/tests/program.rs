//! `sandbox workflow`, as a person runs it, and what stays behind: nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sandbox::{Sandbox, agent_within, job, workflow};
use serde_json::json;
use tokio::process::Command;

#[tokio::test]
async fn the_program_ends_with_zero_where_all_tasks_succeeded() {
    let task = json!({ "image": image(), "command": "exit 0" });
    for (task, code) in [(task, 0), (json!({ "image": image(), "command": "exit 3" }), 125)] {
        let done = program("deploy/fan-out.yaml --arg tasks=2").arg(format!("--arg=task={task}")).output();
        let done = done.await.expect("it runs");
        assert_eq!(done.status.code(), Some(code), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[tokio::test]
async fn a_signal_takes_the_vms_away_with_their_containers() {
    for fates in ["", " --vm lost"] {
        let folder = tempfile::tempdir().expect("a folder");
        let command = format!(
            "--arg=dockerCommand=docker run --rm -v {}:/folder {} file /folder/runs x wait",
            folder.path().display(),
            image()
        );
        let mut program = program(&format!("deploy/workflow.yaml{fates}"));
        let mut running =
            program.arg(command).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it runs");
        while !folder.path().join("runs").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let id = running.id().expect("it runs").to_string();
        Command::new("kill").args(["-s", "TERM", &id]).status().await.expect("kill");
        let ended = tokio::time::timeout(Duration::from_secs(60), running.wait()).await.expect("it ends");
        assert_eq!(ended.expect("it ends").code(), Some(75));
        assert_eq!(containers_with(folder.path()).await, "");
    }
}

#[tokio::test]
async fn the_readmes_try_out_ends() {
    let readme = fs::read_to_string(deploy("README.md")).expect("the walk-through");
    let line = readme.lines().find(|line| line.contains("sandbox -- workflow") && line.contains("--vm"));
    let line = line.and_then(|line| line.split("-- workflow ").nth(1)).expect("the line");
    let line = line.split('`').next().expect("its end");
    let done = program(line).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.matches("another VM is tried").count() == 2, "{said}");
}

#[tokio::test]
async fn a_sandbox_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let runs = folder.path().join("runs");
    let agent = agent_within(env!("CARGO_BIN_EXE_sandbox").into());
    for command in [
        json!({ "dockerCommand": format!(
            "docker run --rm -v {}:/folder {} file /folder/runs x wait", folder.path().display(), image()) }),
        json!({ "hostCommand": format!("sleep 3671 & echo $! >{0}.new; mv {0}.new {0}; wait", runs.display()) }),
    ] {
        let sandbox = Sandbox::builder().boots(agent.clone(), []).start().await.expect("a sandbox");
        let mut args = command;
        args["agentImage"] = "longrun-agent".into();
        args["zones"] = vec![::sandbox::ZONE].into();
        let file = deploy("workflow.yaml");
        let execution = workflow::run(&sandbox, &file, &args, |_| ());
        let started = async {
            while !runs.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = execution => panic!("the job goes on"),
            () = started => {}
        }
        let said = fs::read_to_string(&runs).expect("a file");
        let is_left = async || match said.trim().parse::<u32>() {
            Ok(process) => Path::new("/proc").join(process.to_string()).exists(),
            Err(_) => !containers_with(folder.path()).await.is_empty(),
        };
        assert!(is_left().await, "{said}");
        drop(sandbox);
        // Its last connections end when the runtime comes to it.
        let gone = async {
            while is_left().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("it goes");
        fs::remove_file(&runs).expect("the file");
    }
}

/// The sandbox as a person runs a workflow in it, from the repository's folder.
fn program(words: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    program.current_dir(deploy("..")).arg("workflow").args(words.split_whitespace()).kill_on_drop(true);
    program
}

async fn containers_with(folder: &Path) -> String {
    let volume = format!("volume={}", folder.display());
    let listed = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &volume]).output().await;
    String::from_utf8(listed.expect("docker").stdout).expect("ids")
}

fn image() -> String {
    job::image().expect("the job's image")
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}
