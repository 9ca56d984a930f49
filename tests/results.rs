//! The job's result: a JSON file in its container becomes `result` in the report, and whatever is wrong with it
//! is told and changes nothing else.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{fs, os::unix::fs::symlink, path::Path};

use machinery::{
    GIVEN, Given, Runtime,
    engine_proxy::{EngineProxy, Fault},
    host::Shared,
    on_both, run, start,
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATH: (&str, &str) = ("longrun-result-file", "/result.json");
/// A job that writes its result.
const WRITES: &str = r#"docker run IMAGE file /result.json '{"rows": [12, 0.1], "é": null}'"#;

on_both! { an_agent_that_takes_the_job_over_reads_its_result }

#[tokio::test]
async fn what_the_job_wrote_is_in_the_report() {
    let report = run(Given { command: WRITES, attributes: &[PATH], ..GIVEN }).await.report();
    assert_eq!(report["result"], json!({ "rows": [12, 0.1], "é": null }));
    assert_eq!(report["message"], "the job completed");
}

#[tokio::test]
async fn without_the_attribute_nothing_is_read() {
    let engine = EngineProxy::start(&[]);
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let report = run(Given { command: WRITES, environment: &environment, ..GIVEN }).await.report();
    assert_eq!((&report["result"], engine.count("/archive")), (&Value::Null, 0));
}

#[tokio::test]
async fn a_job_that_failed_or_was_made_to_end_has_a_result_too() {
    for (job, timeout, reason) in
        [("exit 3", "1h", "Error"), ("hog", "1h", "OOMKilled"), ("wait", "1s", "DeadlineExceeded")]
    {
        let command = format!("docker run -m 32m IMAGE file /result.json [1] {job}");
        let attributes = [PATH, ("longrun-timeout", timeout)];
        let report = run(Given { command: &command, attributes: &attributes, ..GIVEN }).await.report();
        assert_eq!((&report["reason"], &report["result"]), (&reason.into(), &json!([1])), "{report:#}");
    }
}

#[tokio::test]
async fn a_job_that_was_stopped_has_a_result_too() {
    let command = "docker run IMAGE ignore-term pause 1000 file /result.json [1]";
    for preempted in [true, false] {
        let mut agent = start(Given { command, attributes: &[PATH], ..GIVEN }).await;
        agent.says("the job runs").await;
        match preempted {
            true => agent.sandbox.set_metadata("instance/preempted", "TRUE"),
            false => agent.signal("TERM"),
        }
        let report = agent.ended().await.report();
        let reason = if preempted { "Preempted" } else { "Stopped" };
        assert_eq!((&report["reason"], &report["result"]), (&reason.into(), &json!([1])), "{report:#}");
    }
}

#[tokio::test]
async fn a_job_that_failed_before_it_wrote_its_result_is_not_blamed_for_that() {
    let given = Given { command: "docker run IMAGE exit 3", attributes: &[PATH], ..GIVEN };
    let report = run(given).await.report();
    assert_eq!((&report["message"], &report["result"]), (&"the job exited with code 3".into(), &Value::Null));
}

#[tokio::test]
async fn a_result_is_read_wherever_the_container_has_it() {
    let mut tasks = JoinSet::new();
    for (flags, path) in [
        ("--volume FOLDER:/out", "/out/result.json"),
        ("--volume FOLDER:/out", "/out/linked.json"),
        ("--volume FOLDER:/out", "/out/linked twice.json"),
        ("--volume FOLDER:/out", "/out/../out/./result.json"),
        ("--rm --volume /out", "/out/result.json"),
        ("--workdir /out", "/out/result.json"),
    ] {
        tasks.spawn(async move {
            let folder = tempfile::tempdir().unwrap();
            furnish(folder.path());
            (flags, path, run_in(folder.path(), flags, path, "file /out/result.json [1]").await)
        });
    }
    for (flags, path, report) in tasks.join_all().await {
        assert_eq!(report["result"], json!([1]), "{flags} {path}: {report:#}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_result_is_told_and_the_outcome_stays() {
    let mut tasks = JoinSet::new();
    for (path, why) in [
        ("/out/nothing", "is not there"),
        ("/out/nothing/at all", "is not there"),
        ("/out/directory", "is a directory"),
        ("/out/pipe", "is a device, a pipe or a socket"),
        ("/out/large", "has 65537 bytes, and 65536 is the most"),
        ("/out/vast", "has 1099511627776 bytes, and 65536 is the most"),
        ("/out/empty", "is not JSON: EOF while parsing a value at line 1 column 0"),
        ("/out/half", "is not JSON: EOF while parsing a value at line 1 column 4"),
        ("/out/binary", "is not UTF-8, from byte 2 on"),
        ("/out/dangling", "is a symbolic link to /out/nothing, which is not there"),
        ("/out/escaping", "is a symbolic link to /etc/shadow, which is not there"),
        ("/out/to the directory", "is a directory"),
        ("/out/round and round", "could not be read: the Engine answered 500"),
        ("/tmpfs/result.json", "is not there"),
    ] {
        tasks.spawn(async move {
            let folder = tempfile::tempdir().unwrap();
            furnish(folder.path());
            let flags = "--tmpfs /tmpfs --volume FOLDER:/out";
            (path, why, run_in(folder.path(), flags, path, "file /tmpfs/result.json [1]").await)
        });
    }
    // Only now: a task that fails takes the others with it, and their containers would stay.
    for (path, why, report) in tasks.join_all().await {
        let message = report["message"].as_str().unwrap();
        let expected = format!("the job completed; its result file {path} {why}");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!((&report["outcome"], &report["result"]), (&"Succeeded".into(), &Value::Null));
    }
}

async fn an_agent_that_takes_the_job_over_reads_its_result(runtime: Runtime) {
    let shared = Shared::folder();
    let command = shared.command("pause 500 file /vm/result.json [1]");
    let path = match runtime {
        Runtime::Docker => "/vm/result.json".to_owned(),
        Runtime::Host => shared.path("result.json"),
    };
    let attributes = [(PATH.0, &*path)];
    let mut agent = start(Given { command: &command, attributes: &attributes, runtime, ..GIVEN }).await;
    agent.says("the job runs").await;
    let report = agent.killed_and_started_again().await.ended().await.report();
    assert_eq!(report["result"], json!([1]), "{report:#}");
}

#[tokio::test]
async fn what_is_wrong_with_a_result_of_the_vm_is_told_and_the_outcome_stays() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    for (name, why) in [
        ("result.json", ""),
        ("linked.json", ""),
        ("nothing", "is not there"),
        ("directory", "is a directory"),
        ("pipe", "is a device, a pipe or a socket"),
        ("large", "has 65537 bytes, and 65536 is the most"),
        ("vast", "has 1099511627776 bytes, and 65536 is the most"),
        ("half", "is not JSON: EOF while parsing a value at line 1 column 4"),
        ("binary", "is not UTF-8, from byte 2 on"),
        ("dangling", "is a symbolic link to nothing, which is not there"),
        ("to the directory", "is a directory"),
    ] {
        let path = folder.path().join(name).display().to_string();
        let attributes = [(PATH.0, &*path)];
        let given = Given { command: "true", attributes: &attributes, runtime: Runtime::Host, ..GIVEN };
        let report = run(given).await.report();
        let told = if why.is_empty() { String::new() } else { format!("; its result file {path} {why}") };
        assert_eq!(report["message"], format!("the job completed{told}"));
        let result = if why.is_empty() { json!([0]) } else { Value::Null };
        assert_eq!((&report["outcome"], &report["result"]), (&"Succeeded".into(), &result), "{name}");
    }
}

#[tokio::test]
async fn a_result_that_was_lost_on_its_way_is_asked_for_again() {
    for fault in [Fault::Close, Fault::LoseAnswer, Fault::CutBody, Fault::CutAfter(600)] {
        let report = run_through(fault).await;
        assert_eq!(report["result"], json!({ "rows": [12, 0.1], "é": null }), "{fault:?}: {report:#}");
    }
}

#[tokio::test]
async fn of_what_the_engine_sends_no_more_is_read_than_it_announced() {
    // An Engine that announces seven bytes and an archive of a gibibyte, of which it sends a megabyte: a reader that
    // wanted all of it would find the connection broken, and ask again.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\nX-Docker-Container-Path-Stat: eyJzaXplIjo3LCJtb2RlIjo0MjB9\r\n\r\n";
    let answer = format!("{head}{}", "x".repeat(1 << 20)).leak();
    let report = run_through(Fault::Say(answer)).await;
    let why = "could not be read: the Engine's answer cannot be read (reading a file of the container): its archive is not that of the file as a whole";
    assert_eq!(report["message"], format!("the job completed; its result file /result.json {why}"));
}

#[tokio::test]
async fn an_engine_that_hangs_costs_a_preempted_job_its_result_and_not_its_report() {
    let engine = EngineProxy::start(&[("GET /archive", Fault::Hang)]);
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let command = "docker run IMAGE file /result.json [1] wait";
    let given = Given { command, attributes: &[PATH], environment: &environment, ..GIVEN };
    let mut agent = start(given).await;
    agent.says("the job runs").await;
    agent.sandbox.set_metadata("instance/preempted", "TRUE");
    let report = agent.ended().await.report();
    let message = report["message"].as_str().unwrap();
    let expected = "; its result file /result.json was not read in 1s: the Engine is too slow";
    assert!(message.ends_with(expected), "{message}");
    assert_eq!(report["reason"], "Preempted");
}

/// Puts what may be wrong with a result into a folder.
fn furnish(folder: &Path) {
    let path = |name: &str| folder.join(name);
    for (name, content) in [
        ("result.json", &b"[0]"[..]),
        ("large", &[b' '; 65537]),
        ("empty", b""),
        ("half", b"[1, "),
        ("binary", b"\"\xff\""),
    ] {
        fs::write(path(name), content).unwrap();
    }
    fs::File::create(path("vast")).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir(path("directory")).unwrap();
    mkfifo(&path("pipe"), Mode::S_IRUSR).unwrap();
    for (name, target) in [
        ("linked.json", "result.json"),
        ("linked twice.json", "/out/linked.json"),
        ("dangling", "nothing"),
        ("escaping", "../../../../../../etc/shadow"),
        ("to the directory", "directory"),
        ("round and round", "round and round"),
    ] {
        symlink(target, path(name)).unwrap();
    }
}

/// The report of a job whose `FOLDER` is this one.
async fn run_in(folder: &Path, flags: &str, path: &str, job: &str) -> Value {
    let command = format!("docker run {flags} IMAGE {job}").replace("FOLDER", folder.to_str().unwrap());
    let attributes = [("longrun-result-file", path)];
    run(Given { command: &command, attributes: &attributes, ..GIVEN }).await.report()
}

/// The report of a job that writes its result, with an Engine on a bad day.
async fn run_through(fault: Fault) -> Value {
    let engine = EngineProxy::start(&[("GET /archive", fault)]);
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let given = Given { command: WRITES, attributes: &[PATH], environment: &environment, ..GIVEN };
    run(given).await.report()
}
