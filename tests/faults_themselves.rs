//! The faults that other suites make around the agent: they happen, and nothing is left of them.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use machinery::{
    GIVEN, Given,
    host::{Boot, Clock, SmallDisk},
    private_engine::PrivateEngine,
    start,
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOUR: i64 = 3600;

#[tokio::test]
async fn a_private_engine_takes_everything_with_it() {
    for live_restore in [false, true] {
        let bridge = machines_bridge();
        let mut engine = PrivateEngine::start(live_restore).await;
        let folder = engine.docker_host().replace("unix://", "").replace("/docker.sock", "");
        let image = engine.image();
        let container = engine.docker(&["run", "--detach", &image, "print", "hello", "wait"]);
        engine.logged(&container, "hello").await;
        engine.kill().await;
        assert!(traces(&folder).iter().any(|trace| trace.contains("containerd-shim")), "nothing to look for");
        drop(engine);
        assert_eq!(traces(&folder), [""; 0]);
        assert_eq!(machines_bridge(), bridge);
    }
}

#[tokio::test]
async fn a_private_engines_containers_outlive_it_with_live_restore_alone() {
    for live_restore in [false, true] {
        let mut engine = PrivateEngine::start(live_restore).await;
        let image = engine.image();
        let container = engine.docker(&["run", "--detach", &image, "wait"]);
        engine.stop().await;
        engine.start_again().await;
        let running = engine.docker(&["inspect", "--format", "{{.State.Running}}", &container]);
        assert_eq!(running, live_restore.to_string());
    }
}

#[test]
fn another_boot_has_another_id_for_who_runs_under_it() {
    let before = fs::read_to_string(BOOT_ID).unwrap();
    let boot = Boot::first();
    let first = run_under(&boot.under(), &["cat", BOOT_ID]);
    boot.again();
    let second = run_under(&boot.under(), &["cat", BOOT_ID]);
    assert_ne!(first, second);
    assert!(first != before && first.len() == before.len(), "{first}");
    assert_eq!(fs::read_to_string(BOOT_ID).unwrap(), before);
}

#[test]
fn a_small_disk_is_filled_and_freed_and_made_read_only() {
    let disk = SmallDisk::mount();
    let path = disk.path().to_owned();
    let file = Path::new(&path).join("file");
    disk.fill();
    assert_eq!(fs::write(&file, "text").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    disk.free();
    fs::write(&file, "text").unwrap();
    disk.make_read_only();
    assert_eq!(fs::write(&file, "text").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    disk.make_writable();
    fs::write(&file, "text").unwrap();
    drop(disk);
    assert_eq!(traces(&path), [""; 0]);
}

#[tokio::test]
async fn a_clock_jumps_for_the_agent_alone_while_it_runs() {
    let clock = Clock::right();
    let mut agent = start(Given { command: "docker run IMAGE wait", under: &clock.under(), ..GIVEN }).await;
    assert!(time_of(&agent.says("the job runs").await) < SystemTime::now());
    clock.jump(2 * HOUR);
    agent.signal("TERM");
    let an_hour_on = SystemTime::now() + Duration::from_secs(HOUR.unsigned_abs());
    assert!(time_of(&agent.says("stopping the job").await) > an_hour_on);
    assert_eq!(agent.ended().await.report()["reason"], "Stopped");
}

/// The number of the bridge that the machine's Engine may have.
fn machines_bridge() -> Option<String> {
    fs::read_to_string("/sys/class/net/docker0/ifindex").ok()
}

/// What a command prints that runs as an agent would.
fn run_under(under: &[&str], command: &[&str]) -> String {
    let words = [under, command].concat();
    let output = Command::new(words[0]).args(&words[1..]).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The processes, mounts, cgroups and folders that still name a folder.
fn traces(folder: &str) -> Vec<String> {
    let name = Path::new(folder).file_name().unwrap().to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut traces: Vec<_> = mounts.lines().filter(|line| line.contains(name)).map(str::to_owned).collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        traces.extend(String::from_utf8(words).ok().filter(|words| words.contains(name)));
    }
    let cgroups = Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", name]).output();
    traces.extend(String::from_utf8(cgroups.unwrap().stdout).unwrap().lines().map(str::to_owned));
    traces.extend(Path::new(folder).exists().then(|| folder.to_owned()));
    traces
}

/// When the agent's clock says that it wrote a line of its log.
fn time_of(line: &serde_json::Value) -> SystemTime {
    humantime::parse_rfc3339(line["time"].as_str().unwrap()).unwrap()
}
