//! The whole log in Cloud Storage: as the job wrote it, whatever happens to the job, the agent or the service, and
//! never at the cost of the report.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

#[path = "storage/emulator.rs"]
mod emulator;
mod machinery;

use std::{io::Read, sync::Arc, time::Duration};

use emulator::Emulator;
use flate2::read::GzDecoder;
use machinery::{Agent, Ended, GIVEN, Given, start_in};
use sandbox::{Answer, BUCKET, Builder, INSTANCE, Mishap, Object, Sandbox};
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

/// Cannot be packed to much less: a part and an end.
const NOISE: &str = "noise 1500 1000";
/// More than waits in memory.
const MUCH_NOISE: &str = "noise 16000 1000";

#[tokio::test]
async fn the_whole_log_of_both_streams_is_an_object() {
    let command = "docker run IMAGE print one pause 50 eprint two pause 50 write three";
    let ended = in_storage(command, |cloud| cloud).await;
    let (report, object) = (ended.report(), object(&ended));
    let name = format!("logs/{INSTANCE}/{}/attempt-1.log", report["runId"].as_str().unwrap());
    assert_eq!(object.name, name);
    assert_eq!(report["logs"]["uri"], format!("gs://{BUCKET}/{name}"));
    assert_eq!(report["logs"]["unavailable"], Value::Null);
    assert_eq!(text(&object), b"one\ntwo\nthree");
    let about = &object.resource;
    assert_eq!(about["contentType"], "text/plain; charset=utf-8");
    assert_eq!(about["contentEncoding"], "gzip");
    assert_eq!(about["metadata"]["longrun-run-id"], report["runId"]);
    assert_eq!(about["metadata"]["longrun-image"], machinery::image());
}

#[tokio::test]
async fn a_long_log_goes_in_parts_while_the_job_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let command =
        format!("docker run --log-opt max-size=1g -v {path}:/vm IMAGE noise 30000 1000 await /vm/go");
    let agent = begin(&command, &[], |cloud| cloud).await;
    agent.sandbox.requested(3, "PUT storage.googleapis.com").await;
    assert!(agent.sandbox.objects().is_empty(), "it is there only when it is whole");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = agent.ended().await;
    assert_whole(&ended, "noise 30000 1000");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_stored_as_they_are_whatever_the_driver() {
    for driver in ["json-file", "local", "none"] {
        let command = format!("docker run --log-driver {driver} IMAGE cat /bin/job");
        let ended = in_storage(&command, |cloud| cloud).await;
        assert!(text(&object(&ended)) == sandbox::job::PROGRAM, "{driver}");
    }
}

#[tokio::test]
async fn every_attempt_has_an_object() {
    let attributes = [("longrun-max-attempts", "2")];
    let ended = begin("docker run IMAGE print hello exit 3", &attributes, |cloud| cloud).await.ended().await;
    let objects = ended.sandbox.objects();
    let ends: Vec<_> = objects.iter().map(|object| object.name.rsplit_once('/').unwrap().1).collect();
    assert_eq!(ends, ["attempt-1.log", "attempt-2.log"]);
    assert!(objects.iter().all(|object| text(object) == b"hello\n"));
    assert!(ended.report()["logs"]["uri"].as_str().unwrap().ends_with("/attempt-2.log"));
}

#[tokio::test]
async fn the_log_of_a_job_that_ran_too_long_is_there() {
    let attributes = [("longrun-timeout", "500ms"), ("longrun-stop-grace", "500ms")];
    let ended = begin("docker run IMAGE print hello ignore-term wait", &attributes, |cloud| cloud)
        .await
        .ended()
        .await;
    assert_eq!(ended.report()["reason"], "DeadlineExceeded");
    assert!(text(&object(&ended)).starts_with(b"hello\n"));
}

#[tokio::test]
async fn the_log_of_a_job_that_is_stopped_or_preempted_is_there() {
    for (preempted, reason) in [(true, "Preempted"), (false, "Stopped")] {
        let mut agent = begin("docker run IMAGE print hello wait", &[], |cloud| cloud).await;
        agent.says("the job runs").await;
        match preempted {
            true => agent.sandbox.set_metadata("instance/preempted", "TRUE"),
            false => agent.signal("TERM"),
        }
        let ended = agent.ended().await;
        assert_eq!(ended.report()["reason"], reason);
        assert_eq!(text(&object(&ended)), b"hello\n");
    }
}

#[tokio::test]
async fn whatever_goes_wrong_once_with_any_request_the_object_is_whole() {
    let (places, mut running) = (Arc::new(Semaphore::new(3)), JoinSet::new());
    // A start, three parts, and an end.
    for request in 1..=5 {
        for mishap in mishaps() {
            let places = Arc::clone(&places);
            running.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                fares(request, &mishap).await;
            });
        }
    }
    running.join_all().await;
}

async fn fares(request: usize, mishap: &Mishap) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let command = format!("docker run -v {path}:/vm IMAGE {NOISE} await /vm/2 {NOISE} await /vm/3 {NOISE}");
    let sandbox = Sandbox::builder().storage_mishap(request, mishap.clone()).start().await.unwrap();
    let agent = start_in(sandbox, Given { command: &command, attributes: TO_BUCKET, ..GIVEN });
    for part in [2, 3] {
        agent.sandbox.requested(part, "storage.googleapis.com").await;
        std::fs::write(folder.path().join(part.to_string()), "").unwrap();
    }
    let ended = agent.ended().await;
    println!("{mishap:?} of request {request}");
    let requests = ended.sandbox.requests();
    assert!(requests.iter().filter(|line| line.contains("storage.")).count() >= request);
    assert_whole(&ended, &[NOISE; 3].join(" "));
}

fn mishaps() -> [Mishap; 9] {
    [
        Mishap::Answered(503.into()),
        Mishap::Answered(401.into()),
        Mishap::Answered(Answer::status(302).header("Location", "https://storage.googleapis.com/")),
        Mishap::Answered(Answer::hang_up()),
        Mishap::Answered(Answer::lost()),
        Mishap::Answered(Answer::page()),
        Mishap::Short,
        Mishap::Cut,
        Mishap::Forgotten,
    ]
}

#[tokio::test]
async fn a_server_that_is_not_ours_has_the_whole_log_though_every_part_is_interrupted_once() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let emulator = Emulator::start(&sandbox).await;
    let endpoint = emulator.endpoint();
    let environment = [("LONGRUN_GOOGLE_ENDPOINT", &*endpoint)];
    let parts = format!("{NOISE} pause 300 {NOISE} pause 300 {NOISE}");
    let command = format!("docker run IMAGE {parts}");
    let given = Given { command: &command, attributes: TO_BUCKET, environment: &environment, ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    let report = ended.report();
    let uri = report["logs"]["uri"].as_str().unwrap_or_else(|| panic!("{report:#}"));
    assert!(emulator.unpacked(uri).await == printed(&parts), "{:#?}", ended.log);
    assert_eq!(report["logs"]["unavailable"], Value::Null);
}

#[tokio::test]
async fn a_session_at_an_address_that_is_not_googles_is_not_used() {
    let elsewhere = Sandbox::builder().start().await.unwrap();
    let address = elsewhere.plain_callback_url();
    let answer = Answer::status(200).header("Location", &address);
    let sandbox = Sandbox::builder().storage_mishap(1, Mishap::Answered(answer)).start().await.unwrap();
    let given = Given { command: "docker run IMAGE print hello", attributes: TO_BUCKET, ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    assert_eq!(text(&object(&ended)), b"hello\n");
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn a_service_that_is_away_for_a_while_costs_nothing_of_a_fast_log() {
    let away = Answer::status(503).header("Retry-After", "4");
    let sandbox = Sandbox::builder().storage_mishap(1, Mishap::Answered(away)).start().await.unwrap();
    let command = format!("docker run --log-opt max-size=1g IMAGE {MUCH_NOISE}");
    let mut agent = start_in(sandbox, Given { command: &command, attributes: TO_BUCKET, ..GIVEN });
    agent.says("reading the log for Cloud Storage from its beginning").await;
    assert_whole(&agent.ended().await, MUCH_NOISE);
}

#[tokio::test]
async fn what_is_lost_because_the_engine_does_not_keep_it_is_counted() {
    let away = Answer::status(503).header("Retry-After", "4");
    let sandbox = Sandbox::builder().storage_mishap(1, Mishap::Answered(away)).start().await.unwrap();
    let command = format!("docker run --log-driver none IMAGE {MUCH_NOISE}");
    let ended = start_in(sandbox, Given { command: &command, attributes: TO_BUCKET, ..GIVEN }).ended().await;
    let report = ended.report();
    let missing = report["logs"]["bytes"].as_u64().unwrap() - text(&object(&ended)).len() as u64;
    assert!(missing > 0);
    let why = format!("the log in gs://{BUCKET}: {missing} bytes of it are missing");
    assert_eq!(report["logs"]["unavailable"], why);
    assert_ne!(report["logs"]["uri"], Value::Null);
}

#[tokio::test]
async fn what_somebody_must_mend_is_told_at_once_and_the_report_goes_out() {
    let role = "Cloud Storage answered 403; grant the VM's service account roles/storage.objectCreator";
    refused(|cloud| cloud.storage_answer(403), TO_BUCKET, role).await;
    let attributes = &[("longrun-logs", "gs://no-such-bucket")];
    refused(|cloud| cloud, attributes, "there is no bucket no-such-bucket").await;
    refused(|cloud| cloud.scopes(&[]), TO_BUCKET, role).await;
}

#[tokio::test]
async fn a_secret_is_not_in_the_object_however_the_log_came_there() {
    let away = || Mishap::Answered(Answer::status(503).header("Retry-After", "4"));
    for (mishap, again) in [(Mishap::Short, false), (away(), true)] {
        let sandbox = Sandbox::builder().secret("key", "correct-horse").storage_mishap(1, mishap);
        let attributes = [TO_BUCKET, &[("longrun-secret-env-KEY", "key")]].concat();
        let command = format!("docker run --log-opt max-size=1g IMAGE env KEY {MUCH_NOISE} env KEY");
        let given = Given { command: &command, attributes: &attributes, ..GIVEN };
        let ended = start_in(sandbox.start().await.unwrap(), given).ended().await;
        let text = String::from_utf8(text(&object(&ended))).unwrap();
        assert!(!text.contains("correct-horse"));
        assert_eq!(text.matches("KEY=[REDACTED:KEY]\n").count(), 2);
        assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
        assert!(ended.logged("from its beginning") || !again);
    }
}

#[tokio::test]
async fn a_log_may_go_to_both_places() {
    let attributes = [("longrun-logs", "cloud-logging,gs://longrun-sandbox-logs")];
    let given = Given { command: "docker run IMAGE print hello", attributes: &attributes, ..GIVEN };
    let ended = machinery::run(given).await;
    let logs = &ended.report()["logs"];
    assert!(logs["uri"].is_string() && logs["cloudLoggingQuery"].is_string(), "{logs:#}");
    assert_eq!(text(&object(&ended)), b"hello\n");
}

async fn refused(cloud: fn(Builder) -> Builder, attributes: &[(&str, &str)], why: &str) {
    let sandbox = cloud(Sandbox::builder()).start().await.unwrap();
    let given = Given { command: "docker run IMAGE print hello", attributes, ..GIVEN };
    let ended = start_in(sandbox, Given { callback: machinery::Callback::Plain, ..given }).ended().await;
    let report = ended.report();
    assert_eq!((&report["reason"], &report["logs"]["uri"]), (&"Completed".into(), &Value::Null));
    let told = report["logs"]["unavailable"].as_str().unwrap();
    assert!(told.contains(why), "{told}");
    assert_eq!(ended.sandbox.requests().iter().filter(|line| line.contains("storage.")).count(), 1);
}

#[tokio::test]
async fn a_service_that_hangs_or_fails_for_ever_holds_the_report_up_no_longer_than_it_may() {
    for answer in [Answer::silence(), 503.into()] {
        let sandbox = Sandbox::builder().storage_answer(answer).start().await.unwrap();
        let environment = [("LONGRUN_UPLOAD_WAIT", "2s")];
        let given = Given { command: "docker run IMAGE print hello", attributes: TO_BUCKET, ..GIVEN };
        let ended = start_in(sandbox, Given { environment: &environment, ..given }).ended().await;
        let report = ended.report();
        assert_eq!((&report["reason"], &report["logs"]["uri"]), (&"Completed".into(), &Value::Null));
        let told = report["logs"]["unavailable"].as_str().unwrap();
        assert!(told.starts_with(&format!("the log in gs://{BUCKET}: the end of it was not uploaded: ")));
    }
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_while_it_uploads_hurries() {
    let sandbox = Sandbox::builder().storage_answer(Answer::silence()).start().await.unwrap();
    let given = Given { command: "docker run IMAGE print hello", attributes: TO_BUCKET, ..GIVEN };
    let agent = start_in(sandbox, given);
    agent.sandbox.requested(1, "storage.googleapis.com").await;
    let asked = Instant::now();
    agent.signal("TERM");
    let ended = agent.ended().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(ended.report()["logs"]["uri"], Value::Null);
}

#[tokio::test]
async fn an_agent_that_is_killed_and_started_again_uploads_the_whole_log_under_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let command =
        format!("docker run --log-opt max-size=1g -v {path}:/vm IMAGE {NOISE} await /vm/go print late");
    let agent = begin(&command, &[], |cloud| cloud).await;
    agent.sandbox.requested(2, "storage.googleapis.com").await;
    let mut agent = agent.killed_and_started_again().await;
    agent.says("the job was started before; taking it over").await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = agent.ended().await;
    let object = object(&ended);
    assert!(object.name.ends_with("/attempt-1.log"), "{}", object.name);
    assert!(text(&object) == [&*printed(NOISE), b"late\n"].concat());
    assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
}

#[tokio::test]
async fn a_log_that_an_agent_before_this_one_had_uploaded_is_not_uploaded_twice() {
    let mut agent = begin("docker run IMAGE print hello", &[], |cloud| cloud).await;
    agent.says("the log is stored").await;
    let ended = agent.killed_and_started_again().await.ended().await;
    assert_eq!(text(&object(&ended)), b"hello\n");
    assert_eq!(ended.report()["logs"]["unavailable"], Value::Null);
    assert!(ended.report()["logs"]["uri"].as_str().unwrap().ends_with("/attempt-1.log"));
}

#[tokio::test]
async fn an_object_that_is_not_this_jobs_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let command = format!("docker run -v {path}:/vm IMAGE await /vm/go print hello");
    let mut agent = begin(&command, &[], |cloud| cloud).await;
    let run_id = agent.says("the job is known").await["run_id"].as_str().unwrap().to_owned();
    let stem = format!("logs/{INSTANCE}/{run_id}/attempt-1");
    agent.sandbox.put_object(&format!("{stem}.log"), b"foreign");
    std::fs::write(folder.path().join("go"), "").unwrap();
    let ended = agent.ended().await;
    let objects = ended.sandbox.objects();
    assert_eq!(objects[0].bytes, b"foreign");
    assert_eq!((&objects[1].name, &*text(&objects[1])), (&format!("{stem}.part-02.log"), &b"hello\n"[..]));
    assert_eq!(ended.report()["logs"]["uri"], format!("gs://{BUCKET}/{stem}.*log"));
}

#[tokio::test]
async fn a_hundred_megabytes_cost_no_memory_even_if_they_cannot_be_stored() {
    let clouds: [fn(Builder) -> Builder; 2] = [|cloud| cloud, |cloud| cloud.storage_answer(503)];
    for cloud in clouds {
        let command = "docker run --log-driver none IMAGE noise 100000 1000";
        let sandbox = cloud(Sandbox::builder().callback_answers([503])).start().await.unwrap();
        let environment = [("LONGRUN_UPLOAD_WAIT", "10s")];
        let given = Given { command, attributes: TO_BUCKET, environment: &environment, ..GIVEN };
        let mut agent = start_in(sandbox, given);
        agent.says("the report was not accepted yet").await;
        let peak = agent.peak_memory();
        assert_eq!(agent.ended().await.report()["logs"]["lines"], 100_000);
        assert!(peak < 48 << 20, "{peak} bytes at the most");
    }
}

const TO_BUCKET: &[(&str, &str)] = &[("longrun-logs", "gs://longrun-sandbox-logs/logs/")];

async fn in_storage(command: &str, cloud: fn(Builder) -> Builder) -> Ended {
    begin(command, &[], cloud).await.ended().await
}

async fn begin(command: &str, attributes: &[(&str, &str)], cloud: fn(Builder) -> Builder) -> Agent {
    let attributes = [TO_BUCKET, attributes].concat();
    machinery::start(Given { command, attributes: &attributes, cloud, ..GIVEN }).await
}

/// The only object.
#[track_caller]
fn object(ended: &Ended) -> Object {
    let mut objects = ended.sandbox.objects();
    assert_eq!(objects.len(), 1, "{:#?} {:#?}", ended.log, ended.sandbox.requests());
    objects.remove(0)
}

/// The only object is the whole of what these words print, and the report says where it is.
#[track_caller]
fn assert_whole(ended: &Ended, words: &str) {
    let (object, logs) = (object(ended), ended.report()["logs"].clone());
    assert_eq!(logs["unavailable"], Value::Null, "{:#?}", ended.log);
    assert!(text(&object) == printed(words), "{:#?}", ended.log);
    assert_eq!(logs["uri"], format!("gs://{BUCKET}/{}", object.name));
}

fn text(object: &Object) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(&*object.bytes).read_to_end(&mut text).unwrap();
    text
}

/// What a job prints.
fn printed(words: &str) -> Vec<u8> {
    let words = words.split(' ');
    let output = std::process::Command::new("docker")
        .args(["run", "--rm", "--log-driver", "none", machinery::image()])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}
