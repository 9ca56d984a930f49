//! `longrun-agent`: settings, logging, signals, run, exit code.

use std::{process::ExitCode, sync::Arc};

use longrun_agent::{agent, exit, logging, oom_score, progress::Watcher, settings::Settings, supervise};
use tokio::signal::unix::{SignalKind, signal};

// One thread: the agent waits, and musl's malloc is slow when threads contend (FACTS).
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Some(word) = std::env::args().nth(1) {
        return answer(&word).into();
    }
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("longrun-agent: {error}");
            return exit::Code::Usage.into();
        }
    };
    logging::start(settings.log.clone());
    oom_score::spare_the_agent();

    let (handle, stop) = supervise::stop();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signals) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        handle.ask(supervise::Cause::Stopped);
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "a stop of the agent will not stop the job"),
        }
    }

    let nobody: Watcher = Arc::new(|_| {});
    exit::code_of(agent::run(&settings, stop, &nobody).await).into()
}

/// The agent takes no arguments: what to do is in the VM's attributes.
fn answer(word: &str) -> exit::Code {
    match word {
        "--version" => {
            println!("longrun-agent {}", env!("CARGO_PKG_VERSION"));
            exit::Code::Ok
        }
        _ => {
            eprintln!(
                "longrun-agent: `{word}` cannot be used: the agent takes no arguments but --version.\n\
                 What to run is in the VM's attributes, where things are in the environment; the README has both.\n\
                 At a desk, `cargo run -p sandbox -- docker run …` stands in for the VM."
            );
            exit::Code::Usage
        }
    }
}
