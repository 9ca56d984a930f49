//! `sandbox workflow`, as a person runs it, and what stays behind: nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sandbox::job;
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
