//! Runs a workflow of Google's Workflows here: in `workflows-emulator`, against a sandbox that boots its VMs.
//!
//! `workflows/run.py` puts in what that emulator lacks, and says so. Leaves out what nobody but Google can show: IAM,
//! quotas, billing, and how long things take.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::{Sandbox, tools};

/// The emulator, and what carries its requests.
const PACKAGES: [&str; 2] = ["workflows-emulator==1.10.0", "requests==2.33.0"];
const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/workflows/run.py");

/// An execution that is over.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The names of the steps in the order in which they began, those of children among them.
    pub steps: Vec<String>,
    /// What `sys.log` was given.
    pub logged: Vec<Value>,
    /// What it returned, or the error that it raised.
    pub ended: Result<Value, Value>,
    /// The largest size in bytes that its variables had together, as JSON.
    pub largest: u64,
}

/// Something that an execution tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A step of this name begins.
    Step(&'a str),
    /// `sys.log` was given this.
    Log(&'a Value),
}

/// The Python that has the emulator.
///
/// # Errors
/// When it cannot be had.
pub async fn python() -> io::Result<PathBuf> {
    Ok(tokio::task::spawn_blocking(|| tools::venv(&PACKAGES)).await??.join("bin/python"))
}

/// Runs `workflow`, a YAML file beside which the workflows lie that it calls, with this argument.
///
/// # Errors
/// When the emulator cannot be had, or breaks: a workflow that Google would refuse to deploy does that.
pub async fn run(
    sandbox: &Sandbox,
    workflow: &Path,
    argument: &Value,
    mut watch: impl FnMut(News<'_>),
) -> io::Result<Execution> {
    let unusable = || io::Error::other(format!("{}: expected the path of a NAME.yaml", workflow.display()));
    let (folder, name) =
        (workflow.parent().ok_or_else(unusable)?, workflow.file_stem().ok_or_else(unusable)?);
    tokio::fs::metadata(workflow)
        .await
        .map_err(|error| io::Error::other(format!("{}: {error}", workflow.display())))?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let address = sandbox.address().to_string();
    let mut emulator = Command::new(python().await?)
        .args([Path::new(RUN), folder, name.as_ref(), address.as_ref()])
        .env("GCE_METADATA_HOST", &address)
        .env("GCE_METADATA_IP", &address)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = emulator.stdin.take().expect("a pipe");
    stdin.write_all(argument.to_string().as_bytes()).await?;
    drop(stdin);
    let mut lines = BufReader::new(emulator.stdout.take().expect("a pipe")).lines();
    let mut execution = None;
    let (mut steps, mut logged) = (Vec::new(), Vec::new());
    while let Some(line) = lines.next_line().await? {
        let told: Value = serde_json::from_str(&line)?;
        if let Some(step) = told["step"].as_str() {
            watch(News::Step(step));
            steps.push(step.to_owned());
        } else if told.get("log").is_some() {
            watch(News::Log(&told["log"]));
            logged.push(told["log"].clone());
        } else {
            execution = Some(told);
        }
    }
    let output = emulator.wait_with_output().await?;
    let broke = || io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned());
    let told = execution.ok_or_else(broke)?;
    let ended = match told.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(told["result"].clone()),
    };
    Ok(Execution { steps, logged, ended, largest: told["largest"].as_u64().unwrap_or_default() })
}
