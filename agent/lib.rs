//! longrun-agent runs one job on one Compute Engine VM and makes sure that whoever ordered it learns how it
//! ended.
//!
//! # The story
//!
//! A Cloud Workflow creates a callback endpoint and a VM, and waits. The VM's attributes say what to run
//! (`docker-command`) and whom to tell (`callback-url`). The agent, started at boot, goes one way:
//!
//! ```text
//!   metadata server                 Docker Engine                        Cloud Workflows
//!        │ attributes                    ▲ pull, create, start                 ▲ report
//!        ▼                               │ ▼ output, exit                      │
//!   ┌─────────┐   ┌─────┐   ┌────────────────────────┐   ┌────────┐   ┌────────────────┐
//!   │ google/ │──▶│ job/│──▶│ engine/  +  supervise/ │──▶│ report │──▶│    callback    │
//!   └─────────┘   └─────┘   └────────────────────────┘   └────────┘   └────────────────┘
//! ```
//!
//! [`agent::run`] is that sequence on one page, and `attempt.rs` is its middle. How a started container is brought to its end is a small
//! state machine, drawn at the top of `supervise/state.rs`:
//!
//! ```text
//!   Running ──▶ Stopping ──▶ Killing ──▶ Ended | Lost
//!      └───────────┴──────────────────────▲
//! ```
//!
//! # The promises
//!
//! 1. **One ending, told.** Once `callback-url` is known, every path ends in one report that the callback
//!    accepted, or in the agent still trying until its deadline. A job that cannot run is reported like one
//!    that ran. So a step's failure is a [`supervise::Verdict`], not an error.
//! 2. **Never twice.** A container is found again by its name and label, and never started a second time.
//! 3. **The token stays home.** [`google::credential`] says which host gets which credential, and everything
//!    else asks it. Redirects are not followed.
//! 4. **Logs never cost the outcome.** Memory stays flat whatever the job prints; a log stream that breaks is
//!    read on from the Engine's own log, and what may be missing is a note in the report.
//! 5. **No open port.**
//!
//! # Reading order
//!
//! `agent` and `attempt` name every step; each module below is one of them. `job`, `logs`, `report` and `backoff` are pure.
//! The seam for tests is an address, not a trait: everything here speaks HTTP, and fakes are real servers
//! (`tests/sandbox`).

pub mod agent;
mod attempt;
mod fetch;
mod journal;
mod lifecycle;
pub mod settings;

pub mod job;

pub mod google;

pub mod engine;
mod logs;
pub mod supervise;

pub mod report;

pub mod callback;

mod backoff;
mod clock;
pub mod exit;
mod fail_point;
mod http;
pub mod logging;
pub mod oom_score;
pub mod progress;
