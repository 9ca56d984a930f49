//! A VM with the agent on it: fakes of its own, a state folder of its own, and the program as a process.

use std::{
    io,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use sandbox::{Builder, Sandbox};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{process::Process, within};

/// For its first request.
const START: Duration = Duration::from_secs(60);
/// From the end of its work, or of the longest of its pauses, to the agent's own.
const END: Duration = Duration::from_secs(300);

/// What a VM is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    /// The attribute `docker-command`.
    pub(crate) command: &'a str,
    /// Further attributes.
    pub(crate) attributes: &'a [(&'a str, &'a str)],
    /// What is unusual about the fakes.
    pub(crate) cloud: fn(Builder) -> Builder,
}

impl<'a> Order<'a> {
    /// This command, and nothing unusual.
    pub(crate) fn of(command: &'a str) -> Self {
        Self { command, attributes: &[], cloud: |cloud| cloud }
    }
}

/// A VM on which a program runs that reads the order.
#[derive(Debug)]
pub(crate) struct Vm {
    /// What is Google's.
    pub(crate) sandbox: Sandbox,
    /// Just before the program was started.
    pub(crate) started: Instant,
    child: Child,
    _state: TempDir,
}

impl Vm {
    /// Starts the program, which may be the agent or a script in its place.
    pub(crate) async fn boot(program: &Path, order: Order<'_>) -> io::Result<Self> {
        let sandbox = (order.cloud)(Sandbox::builder()).start().await?;
        sandbox.set_attribute("docker-command", order.command);
        sandbox.set_attribute("callback-url", &sandbox.callback_url());
        for (name, value) in order.attributes {
            sandbox.set_attribute(name, value);
        }
        let state = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command.envs(sandbox.environment()).env("LONGRUN_STATE_DIR", state.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let started = Instant::now();
        let child =
            command.spawn().map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        Ok(Self { sandbox, started, child, _state: state })
    }

    /// From the program's start to its first request.
    pub(crate) async fn first_request(&self) -> io::Result<Duration> {
        within("the first request", START, self.sandbox.requested(1, "")).await?;
        Ok(self.started.elapsed())
    }

    /// The program.
    pub(crate) fn process(&self) -> io::Result<Process> {
        self.child.id().map(Process).ok_or_else(|| io::Error::other("the agent ended too early"))
    }

    /// When the report had come in that was accepted.
    pub(crate) async fn accepted(&self, patience: Duration) -> io::Result<Instant> {
        Ok(within("the report", patience, self.sandbox.next_accepted_call()).await?.at)
    }

    /// Waits for the program's end, and for nothing to be wrong with it.
    pub(crate) async fn ended(self) -> io::Result<()> {
        match self.gone().await?.reports().len() {
            1 => Ok(()),
            reports => Err(io::Error::other(format!("{reports} reports were accepted, not one"))),
        }
    }

    /// The same, however many reports were accepted. Answers what the fakes saw.
    pub(crate) async fn gone(mut self) -> io::Result<Sandbox> {
        let status = within("the agent's end", END, self.child.wait()).await??;
        let complaints = self.sandbox.complaints();
        match (status.success(), &complaints[..]) {
            (true, []) => Ok(self.sandbox),
            _ => Err(io::Error::other(format!(
                "the agent ended with {status} and these complaints: {complaints:?}"
            ))),
        }
    }
}
