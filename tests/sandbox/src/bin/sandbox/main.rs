//! Google Cloud at a desk: runs a job as a VM would, with the real agent code against this machine's Docker
//! and fakes for what is Google's, and shows the report that the workflow would get.

mod arguments;
mod view;

use std::{io, process::ExitCode, time::Duration};

use longrun_agent::{agent, exit, settings::Settings, supervise};
use sandbox::Sandbox;
use serde_json::Value;

use arguments::{Arguments, Mode};

/// What `docker run` answers when the job could not be run, and so has no exit code.
const NOT_RUN: u8 = 125;
/// A desk has Docker or it has not; a VM's may just be starting.
const ENGINE_WAIT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return exit::Code::Usage.into();
        }
    };
    let done = match arguments.mode {
        Mode::Help => {
            println!("{}", arguments::USAGE);
            return ExitCode::SUCCESS;
        }
        Mode::Image => job_image().await.map(|image| {
            println!("{image}");
            ExitCode::SUCCESS
        }),
        Mode::Serve => serve(arguments).await,
        Mode::Run => run(arguments).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("sandbox: {error}");
        exit::Code::Unavailable.into()
    })
}

/// The job, from its attributes to its report, with the job's exit code as ours.
async fn run(arguments: Arguments) -> io::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .init();
    let sandbox = prepare(&arguments).await?;
    let settings = settings(&sandbox).map_err(io::Error::other)?;

    let (handle, stop) = supervise::stop();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            handle.ask();
        }
    });
    if let Err(failure) = agent::run(&settings, stop, &view::watcher()).await {
        return Ok(exit::code_of(Err(failure)).into());
    }
    let report = sandbox.reports().pop().unwrap_or_default();
    view::say("the report:");
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(exit_code(&report).into())
}

/// The fakes alone, for an agent, curl or gcloud: prints where they are, and each report that comes.
async fn serve(arguments: Arguments) -> io::Result<ExitCode> {
    let sandbox = prepare(&arguments).await?;
    for (name, value) in sandbox.environment() {
        println!("export {name}={value}");
    }
    println!(
        "# callback-url is {}",
        sandbox.metadata("instance/attributes/callback-url").unwrap_or_default()
    );
    loop {
        let report = tokio::select! {
            report = sandbox.next_report() => report,
            stopped = tokio::signal::ctrl_c() => return stopped.map(|()| ExitCode::SUCCESS),
        };
        println!("{}", serde_json::to_string_pretty(&report)?);
        if arguments.once {
            return Ok(exit_code(&report).into());
        }
    }
}

/// The fakes, with the job as a VM's attributes.
async fn prepare(arguments: &Arguments) -> io::Result<Sandbox> {
    let mut builder = Sandbox::builder();
    if let Some(address) = arguments.listen {
        builder = builder.listen(address);
    }
    let sandbox = builder.start().await?;
    let callback = match arguments.plain_callback {
        true => sandbox.plain_callback_url(),
        false => sandbox.callback_url(),
    };
    sandbox.set_attribute("callback-url", &callback);
    match &arguments.docker_run[..] {
        [] if arguments.attributes.iter().any(|(name, _)| name == "docker-command") => {}
        [] => {
            let image = job_image().await?;
            view::say("no command given, so this is the demo job");
            sandbox.set_attribute("docker-command", &format!("docker run --rm {image} demo"));
        }
        words => sandbox.set_attribute("docker-command", &shell_words::join(words)),
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
    Ok(settings)
}

fn exit_code(report: &Value) -> u8 {
    match (report["exitCode"].as_u64(), report["outcome"].as_str()) {
        (Some(0), Some("Failed")) | (None, _) => NOT_RUN,
        (Some(code), _) => u8::try_from(code).unwrap_or(NOT_RUN),
    }
}
