//! Google Cloud at a desk: runs a job as a VM would, with the real agent code against this machine's Docker
//! and fakes for what is Google's, and shows the report that the workflow would get.

mod arguments;
mod bench;
mod view;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use longrun_agent::{agent, exit, host, progress::Watcher, settings::Settings, supervise};
use sandbox::{Sandbox, workflow};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use arguments::{Arguments, Command, Mode};

/// What `docker run` answers when the job could not be run, and so has no exit code.
const NOT_RUN: u8 = 125;
/// A desk has Docker or it has not; a VM's may just be starting.
const ENGINE_WAIT: Duration = Duration::from_secs(5);
/// A person waits for minutes, not for a day.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    // A shim has one thread.
    if let Some(code) = host::helper(&words) {
        return code;
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(answer()),
        Err(error) => {
            view::say(&format!("sandbox: {error}"));
            exit::Code::Unavailable.into()
        }
    }
}

async fn answer() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            view::say(&text);
            return exit::Code::Usage.into();
        }
    };
    let done = match arguments.mode {
        Mode::Help => {
            view::print(arguments::USAGE);
            return ExitCode::SUCCESS;
        }
        Mode::Image => job_image().await.map(|image| {
            view::print(&image);
            ExitCode::SUCCESS
        }),
        Mode::Agent => return exit::code_of(as_agent().await).into(),
        Mode::Bench => bench::run(&arguments.bench).await.map(|()| ExitCode::SUCCESS),
        Mode::Workflow => run_workflow(arguments).await,
        Mode::Serve => serve(arguments).await,
        Mode::Run => run(arguments).await,
    };
    done.unwrap_or_else(|error| {
        view::say(&format!("sandbox: {error}"));
        exit::Code::Unavailable.into()
    })
}

/// The job, from its attributes to its report, with the job's exit code as ours.
async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    let sandbox = prepare(&arguments).await?;
    let state = tempfile::tempdir()?;
    let settings = match settings(&sandbox) {
        Ok(settings) => Settings { state_dir: state.path().to_owned(), ..settings },
        Err(error) => {
            view::say(&error.to_string());
            return Ok(exit::Code::Usage.into());
        }
    };
    log(&settings);

    if let Err(failure) = agent::run(&settings, asked_by_signals(), &view::watcher()).await {
        return Ok(exit::code_of(Err(failure)).into());
    }
    let report = sandbox.reports().pop().unwrap_or_default();
    view::say("the report:");
    view::print(&serde_json::to_string_pretty(&report)?);
    complain(&sandbox);
    Ok(exit_code(&report).into())
}

/// A workflow, from its argument to what it returns, with its VMs on this machine.
async fn run_workflow(arguments: Arguments) -> io::Result<ExitCode> {
    let agent = sandbox::agent_within(std::env::current_exe()?);
    let sandbox = Sandbox::builder().boots(agent, arguments.fates.clone()).start().await?;
    let argument = arguments.argument(&job_image().await?);
    let told = tokio::select! {
        told = workflow::run(&sandbox, &arguments.workflow, &argument, view::news) => Some(told),
        () = stop_asked() => None,
    };
    if matches!(told, Some(Ok(_))) {
        for left in sandbox.instances() {
            view::say(&format!("the VM {left} was left behind"));
        }
    }
    sandbox.delete_instances().await;
    let Some(told) = told else {
        view::say("stopped: the workflow is over, and its VMs are gone");
        return Ok(exit::Code::TempFail.into());
    };
    let told = told?;
    complain(&sandbox);
    let (how, what) = match &told.ended {
        Ok(result) => ("the workflow returned:", result),
        Err(error) => ("the workflow failed:", error),
    };
    view::say(how);
    view::print(&serde_json::to_string_pretty(what)?);
    Ok(workflows_exit_code(&told.ended).into())
}

/// The first of the signals that ask for an end.
async fn stop_asked() {
    let [mut interrupt, mut terminate] = [SignalKind::interrupt(), SignalKind::terminate()]
        .map(|kind| signal(kind).expect("a signal that may be caught"));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The agent, as it is on a VM of [`run_workflow`].
async fn as_agent() -> Result<(), agent::Failure> {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(error) => {
            view::say(&error.to_string());
            std::process::exit(exit::Code::Usage as i32);
        }
    };
    longrun_agent::logging::start(settings.log.clone());
    let nobody: Watcher = Arc::new(|_| {});
    agent::run(&settings, asked_by_signals(), &nobody).await
}

/// The agent's own log beside the view: what it warns of, unless `LONGRUN_LOG` asks for more.
fn log(settings: &Settings) {
    let filter = match std::env::var_os("LONGRUN_LOG") {
        Some(_) => settings.log.clone(),
        None => Targets::new().with_default(LevelFilter::WARN),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// What Google would not have liked, if there was anything.
fn complain(sandbox: &Sandbox) {
    for complaint in sandbox.complaints() {
        view::say(&format!("Google would not have liked this: {complaint}"));
    }
}

/// A stop that SIGINT and SIGTERM ask for.
fn asked_by_signals() -> supervise::Stop {
    let (handle, stop) = supervise::stop();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, handle) = (signal(kind).expect("a signal that may be caught"), handle.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                handle.ask(supervise::Cause::Stopped);
            }
        });
    }
    stop
}

/// The fakes alone, for an agent, curl or gcloud: prints where they are, and each report that comes.
async fn serve(arguments: Arguments) -> io::Result<ExitCode> {
    let sandbox = prepare(&arguments).await?;
    view::print(&how_to_reach(&sandbox));
    loop {
        let report = tokio::select! {
            report = sandbox.next_report() => report,
            stopped = tokio::signal::ctrl_c() => return stopped.map(|()| ExitCode::SUCCESS),
        };
        view::print(&serde_json::to_string_pretty(&report)?);
        complain(&sandbox);
        if arguments.once {
            return Ok(exit_code(&report).into());
        }
    }
}

/// Lines for a shell: where the fakes are, and what can be done with them.
fn how_to_reach(sandbox: &Sandbox) -> String {
    let address = sandbox.address();
    let exports = sandbox.environment().map(|(name, value)| format!("export {name}={value}\n")).concat();
    format!(
        "{exports}\
         export LONGRUN_STATE_DIR=$(mktemp -d)\n\
         # the agent:  cargo run --bin longrun-agent\n\
         # curl:       curl -H 'Metadata-Flavor: Google' 'http://{address}/computeMetadata/v1/instance/attributes/?recursive=true'\n\
         # gcloud:     GCE_METADATA_ROOT={address} CLOUDSDK_CONFIG=$(mktemp -d) gcloud auth print-access-token"
    )
}

/// The fakes, with the job as a VM's attributes.
async fn prepare(arguments: &Arguments) -> io::Result<Sandbox> {
    let mut builder = Sandbox::builder();
    if let Some(address) = arguments.listen {
        builder = builder.listen(address);
    }
    // The workflow makes its endpoint for the verb that it tells the VM.
    if let Some((_, method)) = arguments.attributes.iter().find(|(name, _)| name == "longrun-callback-method")
    {
        builder = builder.callback_method(&method.to_ascii_uppercase());
    }
    for (name, value) in &arguments.secrets {
        builder = builder.secret(name, value);
    }
    let listening =
        |error| io::Error::other(format!("the fakes cannot listen at {:?}: {error}", arguments.listen));
    let sandbox = builder.start().await.map_err(listening)?;
    let callback = match arguments.plain_callback {
        true => sandbox.plain_callback_url(),
        false => sandbox.callback_url(),
    };
    sandbox.set_attribute("callback-url", &callback);
    match &arguments.command {
        None if arguments.has_ordered() => {}
        None => {
            let image = job_image().await?;
            view::say("no command given, so this is the demo job");
            sandbox.set_attribute("docker-command", &format!("docker run --rm {image} demo"));
        }
        Some(Command::Docker(text)) => sandbox.set_attribute("docker-command", text),
        Some(Command::Host(text)) => sandbox.set_attribute("host-command", text),
    }
    for (name, value) in &arguments.attributes {
        sandbox.set_attribute(name, value);
    }
    Ok(sandbox)
}

/// The demo job's image, made if it is not there.
async fn job_image() -> io::Result<String> {
    tokio::task::spawn_blocking(sandbox::job::image).await?
}

/// The agent's settings as this process' environment has them, but for what the fakes stand for.
fn settings(sandbox: &Sandbox) -> Result<Settings, longrun_agent::settings::SettingsError> {
    let fakes = sandbox.environment();
    let lookup = |name: &str| match fakes.iter().find(|(known, _)| *known == name) {
        Some((_, value)) => Some(value.clone()),
        None if name == "LONGRUN_JOB_FILE" => None,
        None => std::env::var(name).ok(),
    };
    let mut settings = Settings::from_lookup(lookup)?;
    if std::env::var_os("LONGRUN_ENGINE_WAIT").is_none() {
        settings.budgets.engine = ENGINE_WAIT;
    }
    if std::env::var_os("LONGRUN_DELIVERY_DEADLINE").is_none() {
        settings.budgets.delivery = DELIVERY_DEADLINE;
    }
    Ok(settings)
}

/// The job's exit code, where the workflow tells of one job.
fn workflows_exit_code(ended: &Result<Value, Value>) -> u8 {
    match ended {
        Ok(told) if told["outcome"].is_null() => 0,
        Ok(report) => exit_code(report),
        Err(error) => exit_code(&error["report"]),
    }
}

fn exit_code(report: &Value) -> u8 {
    match (report["exitCode"].as_u64(), report["outcome"].as_str()) {
        (Some(0), Some("Failed")) | (None, _) => NOT_RUN,
        (Some(code), _) => u8::try_from(code).unwrap_or(NOT_RUN),
    }
}
