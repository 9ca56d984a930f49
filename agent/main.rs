//! `longrun-agent`: settings, logging, signals, run, exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use longrun_agent::{
    agent, exit, host, logging, oom_score, progress::Watcher, settings::Settings, status, supervise,
};
use tokio::signal::unix::{SignalKind, signal};

/// How long a thread for the disk and for names lives on without work: for ever, as a VM's life goes.
const THREAD: Duration = Duration::from_secs(365 * 24 * 3600);

/// What `--help` says. The settings are few enough to be named; the README has what they mean.
const HELP: &str = "\
Runs the job that the VM's attributes order, and tells the workflow that waits how it ended.

usage: longrun-agent                   run the job
       longrun-agent status [--json]   how far the job on this VM is
       longrun-agent --version

What to run is in the VM's attributes: docker-command or host-command, callback-url, longrun-*.
Where things are is in the environment, and needs no setting on a VM:
    GCE_METADATA_HOST  DOCKER_HOST  LONGRUN_JOB_FILE  LONGRUN_STATE_DIR
    LONGRUN_GOOGLE_ENDPOINT  LONGRUN_LOG  LONGRUN_METADATA_WAIT  LONGRUN_ENGINE_WAIT
    LONGRUN_PULL_STALL  LONGRUN_UPLOAD_WAIT  LONGRUN_DELIVERY_DEADLINE  LONGRUN_ORPHAN_CHECK
It exits with 0 when the report was accepted, whatever the job's own code.
";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    if let Some(code) = host::helper(&words) {
        return code;
    }
    if !words.is_empty() {
        return answer(&words).into();
    }
    // One thread: the agent waits, and musl's malloc is slow when threads contend (FACTS).
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().thread_keep_alive(THREAD).build();
    runtime.expect("a VM that starts the agent has a file or two for it").block_on(run())
}

async fn run() -> ExitCode {
    // The one that writes the journal is there before the job is, which may leave the VM no thread to be had.
    drop(tokio::task::spawn_blocking(|| ()));
    let settings = match settings() {
        Ok(settings) => settings,
        Err(code) => return code.into(),
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

fn settings() -> Result<Settings, exit::Code> {
    Settings::from_env().map_err(|error| {
        eprintln!("longrun-agent: {error}");
        exit::Code::Usage
    })
}

/// The agent takes no arguments: what to do is in the VM's attributes. These are questions.
fn answer(words: &[&str]) -> exit::Code {
    match words {
        ["--version"] => {
            println!("longrun-agent {}", env!("CARGO_PKG_VERSION"));
            exit::Code::Ok
        }
        ["--help" | "-h" | "help"] => {
            _ = io::stdout().write_all(HELP.as_bytes());
            exit::Code::Ok
        }
        ["status"] => tell_status(false),
        ["status", "--json"] => tell_status(true),
        _ => {
            eprintln!(
                "longrun-agent: `{}` cannot be used: the agent takes no arguments but --help, --version, \
                 status and status --json.\n\
                 What to run is in the VM's attributes, where things are in the environment; the README has both.\n\
                 At a desk, `cargo run -p sandbox -- docker run …` stands in for the VM.",
                words.join(" ")
            );
            exit::Code::Usage
        }
    }
}

fn tell_status(as_json: bool) -> exit::Code {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let (told, code) = status::of(&settings.state_dir, as_json);
    match told {
        // A reader that has seen enough is no failure.
        Ok(text) => _ = io::stdout().write_all(text.as_bytes()),
        Err(why) => eprintln!("longrun-agent: {why}"),
    }
    code
}
