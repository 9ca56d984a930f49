//! What to run: the VM's attributes and one `docker run` command line, turned into a [`Job`].
//!
//! Pure: text in, values out. Leaves out reading the attributes and running the job.
//!
//! ```text
//! attributes ──▶ Order { callback, job }      attributes.rs, exit_codes.rs, secrets.rs, sinks.rs
//! host-command ──▶ Job                        host.rs; either command: runtimes.rs
//! docker-command ──▶ words ──▶ flags ──▶ Job  command.rs, shell.rs, pflag.rs, flags.rs, image.rs
//! a flag's value ──▶ the Engine's field       values.rs, devices.rs, files.rs, mounts.rs, networks.rs,
//!                                             platforms.rs, go.rs
//! flags ──▶ the Engine's create call          create.rs
//! ```

mod attributes;
mod command;
mod create;
mod devices;
mod exit_codes;
mod files;
mod flags;
mod go;
mod host;
mod image;
mod mounts;
mod networks;
mod pflag;
mod platforms;
mod runtimes;
mod secrets;
mod shell;
mod sinks;
mod values;

pub use attributes::{
    Attribute, Attributes, Auth, Callback, Job, NoCallback, OnReboot, Order, Preflight, TABLE, WhenOrphaned,
};
pub use command::{CommandError, ContainerCommand};
pub use create::{EngineApi, Pull};
pub use exit_codes::ExitCodes;
pub use files::ReadFile;
pub use host::HostCommand;
pub use image::{ImageError, ImageReference};
pub use pflag::WordError;
pub use runtimes::Command;
pub(crate) use runtimes::{HOST_CGROUP, SHIM_PATIENCE};
pub use secrets::{SecretEnv, SecretVersion};
pub use sinks::{Bucket, Sinks};

/// The candidate that `word` may have been meant to be: at most a third of its letters differ.
fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
