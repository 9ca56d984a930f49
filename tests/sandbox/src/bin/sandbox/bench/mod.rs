//! The agent's speed and footprint, measured side by side with what a user would otherwise have.
//!
//! Each part compares its contenders in one go, one after the other and in another order each time, so that whatever
//! else the machine does meets all of them. What comes out is medians and ratios: a table, a file of JSON with every
//! sample, and a picture. Nothing here passes or fails by a time.
//!
//! The agent is the program in the image `longrun-agent`, as it is shipped. Leaves out TLS and Google's distance: the
//! fakes are on this machine.

mod crowd;
mod engine;
mod footprint;
mod growth;
mod job;
mod log;
mod plot;
mod process;
mod results;
mod vm;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::view;
use engine::Engine;
use results::Results;

/// The parts, in the order in which they are run.
pub(crate) const PARTS: [&str; 6] = ["footprint", "job", "log", "growth", "idle", "crowd"];

/// The image whose program is measured.
const IMAGE: &str = "longrun-agent";

/// What to measure, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Another agent than the one in the image.
    pub(crate) agent: Option<PathBuf>,
    /// Some parts; all if there are none.
    pub(crate) only: Vec<String>,
    /// Hardly anything, to see that it works.
    pub(crate) quick: bool,
    /// Where the files of results go.
    pub(crate) results: Option<PathBuf>,
}

/// What a part needs.
struct Bench {
    agent: PathBuf,
    engine: Engine,
    scale: Scale,
    /// Holds the agent's program and the script.
    folder: TempDir,
}

/// How much of everything.
#[derive(Debug)]
struct Scale {
    /// Of a job of no length.
    jobs: usize,
    /// Of a job that prints, each with `log_bytes`.
    logs: usize,
    log_bytes: u64,
    /// Of what a log grows to.
    log_sizes: &'static [u64],
    /// Of one line.
    line_bytes: u64,
    /// Of what a job's length grows to.
    lengths: &'static [Duration],
    /// Of an idle agent.
    idle: Duration,
    /// Agents at once, and how long their callbacks are away.
    crowd: usize,
    outage: Duration,
}

const WHOLE: Scale = Scale {
    jobs: 31,
    logs: 3,
    log_bytes: 1 << 30,
    log_sizes: &[1_000_000, 100_000_000, 1_000_000_000, 10_000_000_000],
    line_bytes: 1_000_000_000,
    lengths: &[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(100)],
    idle: Duration::from_secs(180),
    crowd: 200,
    outage: Duration::from_secs(30),
};

const QUICK: Scale = Scale {
    jobs: 3,
    logs: 1,
    log_bytes: 1 << 22,
    log_sizes: &[1_000_000, 10_000_000],
    line_bytes: 10_000_000,
    lengths: &[Duration::ZERO, Duration::from_secs(1)],
    idle: Duration::from_secs(5),
    crowd: 5,
    outage: Duration::from_secs(3),
};

/// Measures, and prints what came out.
pub(crate) async fn run(options: &Options) -> io::Result<()> {
    if let Some(results) = &options.results {
        fs::create_dir_all(results)
            .map_err(|error| io::Error::other(format!("{}: {error}", results.display())))?;
    }
    let folder = tempfile::tempdir()?;
    let engine = Engine::new().await?;
    let agent = match &options.agent {
        Some(agent) => fs::canonicalize(agent)
            .map_err(|error| io::Error::other(format!("--agent {}: {error}", agent.display())))?,
        None => agent_of_image(&engine, folder.path()).await?,
    };
    let scale = if options.quick { QUICK } else { WHOLE };
    let bench = Bench { agent, engine, scale, folder };
    let measured = measure(&bench, options).await;
    // What an error or a stop left behind, too.
    let removed = bench.engine.remove_all().await;
    let results = measured?;
    removed?;
    view::print(&results.table());
    if let Some(folder) = &options.results {
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results)? + "\n")?;
        fs::write(folder.join("results.svg"), plot::picture(&results)?)?;
        view::say(&format!("written: results.json and results.svg in {}", folder.display()));
    }
    Ok(())
}

async fn measure(bench: &Bench, options: &Options) -> io::Result<Results> {
    let mut results = Results::new(machine(&bench.engine).await?, today());
    tokio::select! {
        done = parts(bench, options, &mut results) => done?,
        () = crate::stop_asked() => return Err(io::Error::other("stopped")),
    }
    Ok(results)
}

async fn parts(bench: &Bench, options: &Options, results: &mut Results) -> io::Result<()> {
    for part in
        PARTS.into_iter().filter(|part| options.only.is_empty() || options.only.contains(&(*part).into()))
    {
        view::say(&format!("measuring: {part}"));
        match part {
            "footprint" => footprint::measure(bench, results).await?,
            "job" => job::measure(bench, results).await?,
            "log" => log::measure(bench, results).await?,
            "growth" => growth::measure(bench, results).await?,
            "idle" => footprint::measure_idle(bench, results).await?,
            _ => crowd::measure(bench, results).await?,
        }
    }
    Ok(())
}

/// The program out of the image, as a file.
async fn agent_of_image(engine: &Engine, folder: &Path) -> io::Result<PathBuf> {
    let made = engine.docker(&format!("docker create --label {} {IMAGE}", engine.label)).await;
    let container = made.map_err(|error| {
        io::Error::other(format!(
            "{error}\nbuild what is measured: docker build -t {IMAGE} .   (or give --agent FILE)"
        ))
    })?;
    let agent = folder.join("longrun-agent");
    let copied = engine.docker(&format!("docker cp {container}:/longrun-agent {}", agent.display())).await;
    engine.docker(&format!("docker rm {container}")).await?;
    copied.map(|_| agent)
}

/// Writes a program of ours, and answers where.
fn program(folder: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The machine in a few words, without its name.
async fn machine(engine: &Engine) -> io::Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ':', ' ']);
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let docker = engine.docker("docker version --format {{.Server.Version}}/{{.Client.Version}}").await?;
    let (server, client) = docker.split_once('/').unwrap_or_default();
    let driver = engine.docker("docker info --format {{.Driver}}").await?;
    Ok(format!(
        "{cores} cores of {model}, Linux {}, Docker Engine {server} ({driver}), docker CLI {client}",
        kernel.trim()
    ))
}

fn today() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()[..10].to_owned()
}

/// Waits for something, but not for ever.
async fn within<T>(what: &str, patience: Duration, future: impl Future<Output = T>) -> io::Result<T> {
    let late =
        |_| io::Error::other(format!("{what}: nothing within {}", humantime::format_duration(patience)));
    timeout(patience, future).await.map_err(late)
}

/// In milliseconds.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// From one moment to another in milliseconds; less than nothing if that came first.
fn millis_from(one: Instant, to: Instant) -> f64 {
    millis(to.saturating_duration_since(one)) - millis(one.saturating_duration_since(to))
}

/// In mebibytes.
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A number of bytes for people.
fn size_for_people(bytes: u64) -> String {
    match bytes {
        gib if gib % (1 << 30) == 0 => format!("{} GiB", gib >> 30),
        mib if mib % (1 << 20) == 0 => format!("{} MiB", mib >> 20),
        gb if gb % 1_000_000_000 == 0 => format!("{} GB", gb / 1_000_000_000),
        mb => format!("{} MB", mb / 1_000_000),
    }
}
