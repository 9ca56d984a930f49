//! The Engine as agents meet it on other machines: other API versions, and Engines that misbehave.

mod machinery;

use std::sync::{Arc, Mutex};

use machinery::{
    GIVEN, Given, docker,
    engine_proxy::{EngineProxy, Fault},
    run, start,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

#[tokio::test]
async fn the_engine_is_spoken_to_in_a_version_that_both_sides_know() {
    for (engines, spoken) in
        [("1.41", "/v1.41/"), ("1.43", "/v1.43/"), ("1.52", "/v1.52/"), ("1.99", "/v1.52/")]
    {
        let engine = FakeEngine::start(&[
            &format!("200 OK\r\nApi-Version: {engines}"),
            "404 Not Found",
            "404 Not Found\r\nX: no such image",
        ]);
        let report = ran_on(&engine).await;
        assert_eq!(report["reason"], "ImagePullFailed", "{report:#}");
        let requests = engine.requests();
        assert!(requests[0].starts_with("GET /_ping "), "{requests:?}");
        assert!(requests[1..].iter().all(|request| request.contains(spoken)), "{requests:?}");
    }
}

#[tokio::test]
async fn what_is_no_engine_is_told_as_lost() {
    for answer in ["200 OK", "200 OK\r\nApi-Version: latest", "503 Service Unavailable"] {
        let report = ran_on(&FakeEngine::start(&[answer])).await;
        assert_eq!(report["reason"], "EngineLost", "{answer}: {report:#}");
    }
}

const ERROR_500: &str = "HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const HTML: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n<html>";
const CONFLICT: &str = "HTTP/1.1 409 Conflict\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const GONE: &str = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const NO_OOM_YET: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 91\r\n\r\n\
                          {\"State\":{\"Running\":false,\"ExitCode\":137,\"OOMKilled\":false,\"StartedAt\":\"\",\"FinishedAt\":\"\"}}";
const WAIT_ERROR: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 52\r\n\r\n\
                          {\"StatusCode\":-1,\"Error\":{\"Message\":\"who knows it?\"}}";

#[tokio::test]
async fn an_engine_that_is_away_for_a_moment_costs_nothing_at_any_step() {
    for step in [
        "_ping",
        "/images/",
        "/containers/create",
        "/attach",
        "/wait",
        "/start",
        "/containers/ /json",
        "DELETE",
    ] {
        let engine = EngineProxy::start(&[(step, Fault::Close)]);
        let report = told_through(&engine, "docker run IMAGE print hello exit 3").await;
        assert_eq!(report["exitCode"], 3, "{step}: {report:#}");
    }
}

#[tokio::test]
async fn what_an_engine_did_before_its_answer_was_lost_is_not_done_again() {
    for step in ["/containers/create", "/start"] {
        let engine = EngineProxy::start(&[(step, Fault::LoseAnswer)]);
        let report = told_through(&engine, "docker run IMAGE print hello exit 3").await;
        assert_eq!(report["exitCode"], 3, "{step}: {report:#}");
        assert_eq!(engine.count("/start"), 1, "{step}");
    }
}

#[tokio::test]
async fn a_start_whose_second_answer_is_lost_too_is_not_asked_for_a_third_time() {
    let engine = EngineProxy::start(&[("/start", Fault::Close), ("/start", Fault::LoseAnswer)]);
    let report = told_through(&engine, "docker run IMAGE print hello exit 3").await;
    assert_eq!((&report["exitCode"], engine.count("/start")), (&3.into(), 2), "{report:#}");
}

#[tokio::test]
async fn a_wait_that_breaks_is_followed_up_until_the_end_is_known() {
    for answer in [Fault::Say(ERROR_500), Fault::Say(HTML), Fault::Close] {
        // The first inspect after the wait is the one that goes wrong.
        let engine = EngineProxy::start(&[("/wait", Fault::CutBody), ("/containers/ /json", answer)]);
        let report = told_through(&engine, "docker run IMAGE pause 500 exit 3").await;
        assert_eq!(report["exitCode"], 3, "{answer:?}: {report:#}");
    }
}

#[tokio::test]
async fn a_success_is_told_when_the_engines_events_have_it_whatever_becomes_of_the_wait() {
    let engine = EngineProxy::start(&[("/wait", Fault::HoldBody)]);
    let report = told_through(&engine, "docker run IMAGE print hello pause 200").await;
    assert_eq!((&report["reason"], &report["logs"]["tail"]), (&"Completed".into(), &"hello\n".into()));
    let time = |name: &str| humantime::parse_rfc3339(report[name].as_str().expect("a time")).expect("a time");
    let lived = time("finishedAt").duration_since(time("startedAt")).expect("the right order");
    assert!((200..5000).contains(&lived.as_millis()), "{report:#}");
}

#[tokio::test]
async fn a_label_that_looks_like_an_exit_code_is_none() {
    let engine = EngineProxy::start(&[]);
    for (label, code) in [(0, 3), (3, 0)] {
        let command = format!("docker run --label exitCode={label} IMAGE exit {code}");
        let report = told_through(&engine, &command).await;
        assert_eq!(report["exitCode"], code, "{report:#}");
    }
}

#[tokio::test]
async fn without_the_engines_events_every_end_is_told_all_the_same() {
    for fault in [
        Fault::Close,
        Fault::CutBody,
        Fault::CutAfter(100),
        Fault::Say(ERROR_500),
        Fault::Say(HTML),
        Fault::Hang,
        Fault::HoldBody,
    ] {
        for code in [0, 3] {
            let engine = EngineProxy::start(&[("/events", fault)]);
            let report = told_through(&engine, &format!("docker run IMAGE print hello exit {code}")).await;
            assert_eq!(report["exitCode"], code, "{fault:?}: {report:#}");
        }
    }
}

#[tokio::test]
async fn an_engine_that_answers_every_wait_with_an_error_is_not_asked_without_a_pause() {
    let engine = EngineProxy::start(&[("/wait", Fault::Say(WAIT_ERROR)); 99]);
    let report = told_through(&engine, "docker run IMAGE pause 1000 exit 3").await;
    assert_eq!(report["exitCode"], 3, "{report:#}");
    assert!(engine.count("/wait") < 20, "{} times", engine.count("/wait"));
}

#[tokio::test]
async fn a_name_that_is_taken_by_a_create_under_way_is_waited_for() {
    let engine = EngineProxy::start(&[("/create", Fault::Say(CONFLICT)), ("/create", Fault::Say(CONFLICT))]);
    let report = told_through(&engine, "docker run IMAGE exit 3").await;
    assert_eq!((&report["exitCode"], engine.count("/create")), (&3.into(), 3), "{report:#}");
}

#[tokio::test]
async fn a_log_whose_stream_is_cut_is_read_on_from_the_engines_own() {
    let command = "docker run IMAGE lines 100 100 eprint oops pause 500 lines 100 100 pause 1500 print late";
    // A stream that ends between two pieces, one that breaks within one, and one that breaks again and again.
    for cuts in [
        &[("/attach", Fault::CutBody)][..],
        &[("/attach", Fault::CutAfter(1234))],
        &[
            ("/attach", Fault::CutAfter(12345)),
            ("/logs", Fault::Close),
            ("/logs", Fault::CutBody),
            ("/logs", Fault::CutAfter(2345)),
            ("/logs", Fault::CutAfter(13456)),
        ],
    ] {
        let report = told_through(&EngineProxy::start(cuts), command).await;
        let logs = &report["logs"];
        assert_eq!(
            (&logs["lines"], &logs["bytes"], &logs["unavailable"]),
            (&202.into(), &20210.into(), &serde_json::Value::Null),
            "{cuts:?}: {logs:#}"
        );
        assert!(logs["tail"].as_str().is_some_and(|tail| tail.ends_with("x\nlate\n")), "{cuts:?}: {logs:#}");
    }
}

#[tokio::test]
async fn what_the_engine_kept_otherwise_than_it_sent_it_is_told_as_not_exact() {
    // Invalid UTF-8, which json-file replaces: three bytes are there in the place of one.
    let engine = EngineProxy::start(&[("/attach", Fault::CutAfter(100_000))]);
    let report = told_through(&engine, "docker run --log-opt max-size=1g IMAGE cat /job pause 1500").await;
    let why = report["logs"]["unavailable"].as_str().unwrap_or_default();
    assert!(why.ends_with("where it did, lines may be missing or repeated"), "{why:?}");
}

#[tokio::test]
async fn a_terminals_log_whose_stream_is_cut_is_read_on_too() {
    let engine = EngineProxy::start(&[("/attach", Fault::CutAfter(5))]);
    let report = told_through(&engine, "docker run -t IMAGE print early pause 1500 print late").await;
    assert_eq!(report["logs"]["tail"], "early\r\nlate\r\n", "{report:#}");
    assert_eq!(report["logs"]["unavailable"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_log_that_is_cut_and_that_the_engine_rotates_is_told_as_not_exact() {
    for driver in ["local", "json-file"] {
        let engine = EngineProxy::start(&[("/attach", Fault::CutAfter(1000))]);
        let command =
            format!("docker run --log-driver {driver} --log-opt max-size=1k --log-opt max-file=2 IMAGE");
        let report = told_through(&engine, &format!("{command} lines 20 100 pause 1500 print late")).await;
        let logs = &report["logs"];
        let why = logs["unavailable"].as_str().unwrap_or_default();
        assert!(why.starts_with("the log stream broke, first at 20"), "{logs:#}");
        assert!(why.contains(&format!(
            "may be missing or repeated, because the Engine's own log (driver {driver})"
        )));
        assert!(logs["tail"].as_str().is_some_and(|tail| tail.ends_with("late\n")), "{logs:#}");
    }
}

#[tokio::test]
async fn a_log_that_is_cut_and_that_the_engine_does_not_keep_is_listened_to_again_and_told() {
    let engine = EngineProxy::start(&[("/attach", Fault::CutBody)]);
    let command = "docker run --log-driver none IMAGE print early pause 2500 print late";
    let logs = told_through(&engine, command).await["logs"].clone();
    assert_eq!((&logs["tail"], engine.count("/attach")), (&"late\n".into(), 2), "{logs:#}");
    let why = logs["unavailable"].as_str().unwrap_or_default();
    assert!(why.contains("what the job wrote until it was listened to again is not here"), "{why}");
    assert!(why.contains("configured logging driver does not support reading"), "{why}");
}

#[tokio::test]
async fn a_log_that_does_not_come_is_told_and_not_waited_for() {
    let engine = EngineProxy::start(&[("/attach", Fault::CutBody), ("/logs", Fault::Hang)]);
    let report = told_through(&engine, "docker run IMAGE pause 1500 print late").await;
    let missing = "the rest of the log did not come in time after the job's end";
    assert_eq!(report["logs"]["unavailable"], missing, "{report:#}");
    assert_eq!(report["reason"], "Completed");
}

#[tokio::test]
async fn the_engines_own_log_is_not_read_at_the_ordinary_end_of_a_job() {
    let engine = EngineProxy::start(&[]);
    let report = told_through(&engine, "docker run IMAGE print hello pause 1500 print bye").await;
    assert_eq!((&report["logs"]["lines"], engine.count("/logs")), (&2.into(), 0), "{report:#}");
}

#[tokio::test]
async fn a_container_that_is_removed_as_it_ends_is_told_with_the_code_that_the_wait_gave() {
    let engine = EngineProxy::start(&[("/containers/ /json", Fault::Say(GONE)); 9]);
    let report = told_through(&engine, "docker run IMAGE print hello exit 3").await;
    assert_eq!((&report["reason"], &report["exitCode"]), (&"Error".into(), &3.into()), "{report:#}");
    assert_eq!(report["message"], "the job exited with code 3");
}

#[tokio::test]
async fn a_lack_of_memory_that_the_engine_hears_of_after_the_end_is_told() {
    let engine = EngineProxy::start(&[("/containers/ /json", Fault::Say(NO_OOM_YET))]);
    let report = told_through(&engine, "docker run -m 32m IMAGE hog").await;
    assert_eq!((&report["reason"], &report["exitCode"]), (&"OOMKilled".into(), &137.into()), "{report:#}");
}

#[tokio::test]
async fn an_engine_that_stays_away_is_told_and_the_container_is_left_alone() {
    let mut faults = vec![("/wait", Fault::CutBody)];
    faults.extend([("/containers/ /json", Fault::Close); 99]);
    let engine = EngineProxy::start(&faults);
    let environment = [("DOCKER_HOST", &*engine.docker_host()), ("LONGRUN_ENGINE_WAIT", "1s")];
    let given = Given { command: "docker run IMAGE wait", environment: &environment, ..GIVEN };
    let mut agent = start(given).await;
    let container = agent.says("the job runs").await["container"].as_str().map(str::to_owned);
    let container = container.expect("its id");
    agent.says("the container is left where it is").await;
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &container]), "true");
    docker(&["rm", "-f", &container]);
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&"EngineLost".into(), &serde_json::Value::Null));
}

#[tokio::test]
async fn a_stop_signal_that_did_not_arrive_is_sent_again() {
    let engine = EngineProxy::start(&[("/kill", Fault::Close), ("/kill", Fault::Close)]);
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let attributes = [("longrun-stop-grace", "1h")];
    let given = Given {
        command: "docker run IMAGE wait",
        environment: &environment,
        attributes: &attributes,
        ..GIVEN
    };
    let mut agent = start(given).await;
    agent.says("the job runs").await;
    agent.signal("TERM");
    let report = agent.ended().await.report();
    assert_eq!((&report["reason"], &report["exitCode"]), (&"Stopped".into(), &143.into()), "{report:#}");
}

/// The report of a job that ran once, through a proxy.
async fn told_through(engine: &EngineProxy, command: &str) -> serde_json::Value {
    let environment = [("DOCKER_HOST", &*engine.docker_host())];
    let report = run(Given { command, environment: &environment, ..GIVEN }).await.report();
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(1), "{report:#}");
    report
}

async fn ran_on(engine: &FakeEngine) -> serde_json::Value {
    let host = format!("unix://{}", engine.folder.path().join("docker.sock").display());
    let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", "1s")];
    run(Given { environment: &environment, ..GIVEN }).await.report()
}

/// A socket that gives these answers, the last one for ever, and notes the requests' first lines.
struct FakeEngine {
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeEngine {
    fn start(answers: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<[String]> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Self::serve(client, Arc::clone(&answers), Arc::clone(&seen)));
            }
        });
        Self { folder, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    async fn serve(mut client: UnixStream, answers: Arc<[String]>, seen: Arc<Mutex<Vec<String>>>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = client.read(&mut buffer).await {
            let request = String::from_utf8_lossy(&buffer[..length]);
            let line = request.lines().next().unwrap_or_default().to_owned();
            let index = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(line);
                seen.len() - 1
            };
            let head = answers.get(index).or(answers.last()).expect("an answer");
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
            if client.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
