//! `longrun-agent`: settings, logging, signals, run, exit code.

use std::{process::ExitCode, sync::Arc};

use longrun_agent::{agent, exit, logging, progress::Watcher, settings::Settings, supervise};
use tokio::signal::unix::{SignalKind, signal};

// One thread: the agent waits, and musl's malloc is slow when threads contend (FACTS).
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("longrun-agent: {error}");
            return exit::Code::Usage.into();
        }
    };
    logging::start(settings.log.clone());

    let (handle, stop) = supervise::stop();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signals) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        handle.ask();
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "a stop of the agent will not stop the job"),
        }
    }

    let nobody: Watcher = Arc::new(|_| {});
    exit::code_of(agent::run(&settings, stop, &nobody).await).into()
}
