//! longrun-agent runs one job on one Compute Engine VM and makes sure that whoever ordered it learns how it
//! ended.
//!
//! # The story
//!
//! A Cloud Workflow creates a callback endpoint and a VM, and waits. The VM's attributes say what to run
//! (`docker-command` or `host-command`) and whom to tell (`callback-url`). The agent, started at boot, goes one way:
//!
//! ```text
//!   metadata server                 Docker Engine                        Cloud Workflows
//!        │ attributes                    ▲ pull, create, start                 ▲ report
//!        ▼                               │ ▼ output, exit                      │
//!   ┌─────────┐   ┌─────┐   ┌────────────────────────┐   ┌────────┐   ┌────────────────┐
//!   │ google/ │──▶│ job/│──▶│ engine/  +  supervise/ │──▶│ report │──▶│    callback    │
//!   └─────────┘   └─────┘   └────────────────────────┘   └────────┘   └────────────────┘
//!                       every step is in the journal before it is taken
//! ```
//!
//! A `host-command` is run by the agent's own shim (`host/`), which outlives it and is one more Engine from here.
//!
//! [`agent::run`] is that sequence on one page, and `attempt/` is its middle: one attempt. Two small machines
//! decide, both pure. What is to be done next in the whole run, by this agent or by one that is started in its
//! place after a crash or a reboot, is drawn at the top of `lifecycle.rs`, and is what `journal.rs` keeps:
//!
//! ```text
//!   Preparing ──▶ Started ──▶ Ended ──▶ Told
//!       ▲           │ again     ▲
//!       └───────────┴───────────┘
//! ```
//!
//! How a started container is brought to its end is drawn at the top of `supervise/state.rs`:
//!
//! ```text
//!   Running ──▶ Stopping ──▶ Killing ──▶ Ended | Lost
//!      └───────────┴──────────────────────▲
//! ```
//!
//! # The promises
//!
//! 1. **One ending, told.** Once `callback-url` is known, every path ends in one report that the callback
//!    accepted, or in the agent still trying until its deadline; then, or when the workflow that waits is gone,
//!    the orphan rule acts (`workflow.rs`). A job that cannot run is reported like one that ran. So a step's
//!    failure is a [`supervise::Verdict`], not an error.
//! 2. **Never twice.** An attempt is started once: the journal says so before it is, and where there is none the
//!    container's name and labels do. A report that was accepted is not sent again.
//! 3. **The token stays home.** [`google::credential`] says which host gets which credential, and everything
//!    else asks it. Redirects are not followed.
//! 4. **Logs never cost the outcome.** Memory stays flat whatever the job prints; a broken log stream is a
//!    note in the report.
//! 5. **No open port.**
//!
//! # Reading order
//!
//! `agent` and `attempt` name every step; each module below is one of them. `lifecycle`, `job`, `logs`, `report` and
//! `backoff` are pure. The seam for tests is an address, not a trait: everything here speaks HTTP, and fakes are real servers
//! (`tests/sandbox`).

pub mod agent;
mod archive;
mod attempt;
mod fetch;
mod journal;
mod lifecycle;
mod result_file;
pub mod settings;

pub mod job;

pub mod google;

pub mod engine;
pub mod host;
mod logs;
mod sinks;
pub mod supervise;

pub mod report;

pub mod callback;

mod preflight;
mod workflow;

mod backoff;
mod clock;
pub mod exit;
mod fail_point;
mod http;
pub mod logging;
pub mod oom_score;
pub mod progress;
pub mod status;

#[cfg(test)]
mod allocations;
