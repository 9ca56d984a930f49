//! What to run, in either of the two runtimes: a container, or a command on the VM itself.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{CommandError, ContainerCommand, EngineApi, HostCommand, ImageReference};

/// Where the shim puts commands in the tree of cgroups.
pub(crate) const HOST_CGROUP: &str = "longrun";

/// For a shim to answer: it is on this machine, and nothing starts it again.
pub(crate) const SHIM_PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// `docker-command`, by the Docker Engine.
    Container(ContainerCommand),
    /// `host-command`, by the agent's own shim.
    Host(HostCommand),
}

impl Command {
    /// The body of a create call, for an Engine of this version; `Err` names a flag that it does not know yet.
    pub fn create_body(&self, api: EngineApi) -> Result<Map<String, Value>, CommandError> {
        match self {
            Self::Container(command) => command.create_body(api),
            Self::Host(command) => Ok(command.create_body()),
        }
    }

    /// The container, if it is one.
    pub(crate) fn container(&self) -> Option<&ContainerCommand> {
        match self {
            Self::Container(command) => Some(command),
            Self::Host(_) => None,
        }
    }

    /// The image that it runs in.
    pub(crate) fn image(&self) -> Option<&ImageReference> {
        self.container().map(|command| &command.image)
    }

    /// The name that it shall have, if it says so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.container()?.name.as_deref()
    }

    /// The platform that it shall have, if it says so.
    pub(crate) fn platform(&self) -> Option<&str> {
        self.container()?.platform.as_deref()
    }

    /// Whether it has a terminal.
    pub(crate) fn tty(&self) -> bool {
        self.container().is_some_and(|command| command.tty)
    }

    /// Whether anonymous volumes go with it.
    pub(crate) fn remove_volumes(&self) -> bool {
        self.container().is_some_and(|command| command.remove_volumes)
    }

    /// The most memory that it may have, in bytes, if it says so.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.container()?.memory
    }

    /// The cgroup that its own is in.
    pub(crate) fn cgroup_parent(&self) -> Option<&str> {
        match self {
            Self::Container(command) => command.cgroup_parent.as_deref(),
            Self::Host(_) => Some(HOST_CGROUP),
        }
    }

    /// How long whoever runs it may be away: Docker comes back after a restart, and a shim does not.
    pub(crate) fn patience(&self, with_docker: Duration) -> Duration {
        match self {
            Self::Container(_) => with_docker,
            Self::Host(_) => with_docker.min(SHIM_PATIENCE),
        }
    }

    /// What looks as if a shell should have acted on it, and none does.
    pub(crate) fn unexpanded(&self) -> &[String] {
        self.container().map_or(&[], |command| &command.unexpanded)
    }
}
