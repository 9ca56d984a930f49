//! Secrets: the job has them, and nothing that leaves the VM does.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use longrun_agent::{
    google::{Api, ApiError, Metadata, Outside, Tokens, secrets},
    job::{Attributes, Order, SecretEnv},
};
use machinery::{
    Ended, GIVEN, Given, Runtime,
    engine_proxy::{EngineProxy, Fault},
    on_both, run, start, start_in,
};
use reqwest::Method;
use sandbox::{Answer, Builder, Sandbox};
use tokio::time::Instant;

const KEY: &str = "correct-horse/battery+staple";
const KEY_IN: (&str, &str) = ("longrun-secret-env-KEY", "key");

on_both! {
    each_attempt_has_the_secret_of_its_time_and_hides_that,
    an_agent_that_takes_over_hides_what_the_job_really_has,
    a_secret_is_not_in_the_journal_either,
}

#[tokio::test]
async fn the_job_has_its_secret_and_the_log_has_not() {
    let (half, rest) = KEY.split_at(9);
    let encoded = STANDARD.encode(format!("user:{KEY}"));
    let command = format!(
        "docker run -e OTHER=1 IMAGE want KEY {KEY} want OTHER 1 env KEY eprint {KEY} write {half} pause 100 \
         write {rest} print . drip KEY 5 print . print {encoded}"
    );
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let ended = run(Given { command: &command, attributes: &[KEY_IN], cloud, ..GIVEN }).await;
    let report = ended.report();
    assert_eq!(report["reason"], "Completed", "{report:#}");
    let logs = &report["logs"];
    let mut lines: Vec<_> = logs["tail"].as_str().unwrap().lines().collect();
    assert!(lines.pop().unwrap().contains("[REDACTED:KEY]"), "{logs:#}");
    lines.sort_unstable();
    assert_eq!(lines, ["KEY=[REDACTED:KEY]", "[REDACTED:KEY]", "[REDACTED:KEY].", "[REDACTED:KEY]."]);
    assert_eq!(logs["bytes"], "KEY=\n\n.\n.\n\n".len() + 4 * KEY.len() + encoded.len());
    assert_eq!((logs["lines"].as_u64(), logs["truncatedBytes"].as_u64()), (Some(5), Some(0)));
    assert_nowhere(&ended, KEY);
}

async fn a_secret_is_not_in_the_journal_either(runtime: Runtime) {
    let command = format!("docker run IMAGE want KEY {KEY} env KEY");
    let cloud = |cloud: Builder| cloud.secret("key", KEY).callback_answers([503]);
    let mut agent = start(Given { command: &command, attributes: &[KEY_IN], cloud, runtime, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    let files = fs::read_dir(agent.state_dir()).unwrap().map(|file| file.unwrap().path());
    // The shim's log is the job's own, as Docker's is.
    let record = (runtime == Runtime::Host).then(|| agent.shim().join("record.json"));
    for file in files.filter(|file| file.is_file()).chain(record) {
        let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        assert!(!text.contains(KEY), "{text}");
    }
    let journal = fs::read_to_string(agent.state_dir().join("journal.json")).unwrap();
    assert!(journal.contains("[REDACTED:KEY]"), "{journal}");
    let ended = agent.ended().await;
    assert_eq!(ended.report()["reason"], "Completed");
    assert_nowhere(&ended, KEY);
}

#[tokio::test]
async fn a_result_that_holds_a_secret_is_told_without_it() {
    let command = format!(r#"docker run IMAGE file /result '{{"a":["key {KEY}",1]}}'"#);
    let attributes = [KEY_IN, ("longrun-result-file", "/result")];
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let ended = run(Given { command: &command, attributes: &attributes, cloud, ..GIVEN }).await;
    assert_eq!(ended.report()["result"], serde_json::json!({ "a": ["key [REDACTED:KEY]", 1] }));
    assert_nowhere(&ended, KEY);
}

#[tokio::test]
async fn an_engine_that_quotes_the_environment_tells_nobody() {
    const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 63\r\n\r\n\
                          {\"message\":\"invalid variable KEY=correct-horse/battery+staple\"}";
    let body = ANSWER.split("\r\n\r\n").nth(1).unwrap();
    assert!(
        body.contains(KEY) && ANSWER.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{}",
        body.len()
    );
    let proxy = EngineProxy::start(&[("POST /containers/create", Fault::Say(ANSWER))]);
    let environment = [("DOCKER_HOST", &*proxy.docker_host())];
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let ended = run(Given { attributes: &[KEY_IN], environment: &environment, cloud, ..GIVEN }).await;
    let report = ended.report();
    let message = report["message"].as_str().unwrap();
    assert!(message.ends_with("invalid variable KEY=[REDACTED:KEY]"), "{message}");
    assert_nowhere(&ended, KEY);
}

async fn an_agent_that_takes_over_hides_what_the_job_really_has(runtime: Runtime) {
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let command = "docker run IMAGE env KEY pause 3000 env KEY";
    let mut agent = start(Given { command, attributes: &[KEY_IN], cloud, runtime, ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.sandbox.add_secret_version("key", "another-by-now");
    let ended = agent.killed_and_started_again().await.ended().await;
    let report = ended.report();
    assert_eq!(report["logs"]["tail"], "KEY=[REDACTED:KEY]\nKEY=[REDACTED:KEY]\n", "{report:#}");
    assert_eq!(asked(&ended.sandbox), 1);
    assert_nowhere(&ended, KEY);
}

async fn each_attempt_has_the_secret_of_its_time_and_hides_that(runtime: Runtime) {
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let attributes = [KEY_IN, ("longrun-max-attempts", "2")];
    let command = "docker run IMAGE env KEY exit 1";
    let mut agent = start(Given { command, attributes: &attributes, cloud, runtime, ..GIVEN }).await;
    agent.says("the job is tried again").await;
    agent.sandbox.add_secret_version("key", "another-by-now");
    let ended = agent.ended().await;
    let report = ended.report();
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["logs"]["tail"], "KEY=[REDACTED:KEY]\n", "{report:#}");
    assert_eq!(asked(&ended.sandbox), 2);
    assert_nowhere(&ended, "another-by-now");
}

#[tokio::test]
async fn every_secret_that_cannot_be_read_is_told_at_once_with_what_to_do() {
    let cloud = |cloud: Builder| {
        cloud
            .secret("good", KEY)
            .secret("forbidden", KEY)
            .forbidden_secret("forbidden")
            .disabled_secret("disabled")
            .destroyed_secret("destroyed")
            .secret("binary", [0xff, 0xfe])
            .secret("nul", "a\0b")
    };
    let attributes = [
        ("longrun-secret-env-A", "good"),
        ("longrun-secret-env-B", "forbidden"),
        ("longrun-secret-env-C", "missing"),
        ("longrun-secret-env-D", "good:9"),
        ("longrun-secret-env-E", "disabled"),
        ("longrun-secret-env-F", "destroyed"),
        ("longrun-secret-env-G", "binary"),
        ("longrun-secret-env-H", "nul"),
        ("longrun-secret-env-I", "projects/other/secrets/good"),
    ];
    let ended = run(Given { attributes: &attributes, cloud, ..GIVEN }).await;
    let report = ended.report();
    assert_eq!((&report["reason"], &report["startedAt"]), (&"InvalidJob".into(), &().into()));
    let message = report["message"].as_str().unwrap();
    let lines: Vec<_> = message.lines().collect();
    let grant = "grant the VM's service account roles/secretmanager.secretAccessor on the secret";
    for (line, (start, end)) in lines.iter().zip([
        ("B: projects/longrun-sandbox/secrets/forbidden/versions/latest cannot be read: ", grant),
        ("C: ", "not found or has no versions.; create the secret and a version of it, or name another"),
        (
            "D: ",
            "secrets/good/versions/9] not found.; create the secret and a version of it, or name another",
        ),
        ("E: ", "is in DISABLED state.; enable the version, or name another"),
        ("F: ", "is in DESTROYED state.; enable the version, or name another"),
        ("G: ", "cannot be a variable's value: it is not UTF-8; store it as base64"),
        ("H: ", "cannot be a variable's value: it has a NUL byte; store it as base64"),
        ("I: projects/other/secrets/good/versions/latest cannot be read: ", grant),
    ]) {
        assert!(line.starts_with(&format!("longrun-secret-env-{start}")) && line.contains(end), "{line}");
    }
    assert_eq!(lines.len(), 8, "{message}");
    assert!(!ended.logged("the job runs"));
    assert_nowhere(&ended, KEY);
}

#[tokio::test]
async fn an_outage_of_secret_manager_is_waited_for() {
    let answers = || [503.into(), Answer::hang_up(), Answer::page()];
    let cloud = |cloud: Builder| cloud.secret("key", KEY);
    let sandbox = cloud(Sandbox::builder()).secret_answers(answers()).start().await.unwrap();
    let given = Given { command: "docker run IMAGE env KEY", attributes: &[KEY_IN], ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    assert_eq!(ended.report()["logs"]["tail"], "KEY=[REDACTED:KEY]\n");
    assert_eq!(asked(&ended.sandbox), 4);
    assert!(ended.logged("waiting for a service of Google's"));
}

#[tokio::test]
async fn a_refused_token_is_renewed() {
    let cloud = |cloud: Builder| cloud.secret("key", KEY).secret_answers([401]);
    let ended = run(Given { attributes: &[KEY_IN], cloud, ..GIVEN }).await;
    assert_eq!(ended.report()["reason"], "Completed");
    let tokens = ended.sandbox.requests().iter().filter(|request| request.contains("/token")).count();
    assert_eq!((asked(&ended.sandbox), tokens), (2, 2));
}

#[tokio::test]
async fn an_agent_that_is_stopped_does_not_wait_for_secret_manager() {
    let cloud = |cloud: Builder| cloud.secret_answers([503; 99]);
    let mut agent = start(Given { attributes: &[KEY_IN], cloud, ..GIVEN }).await;
    agent.says("waiting for a service of Google's").await;
    agent.signal("TERM");
    assert_eq!(agent.ended().await.report()["reason"], "Stopped");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Sandbox::builder().start().await.unwrap();
    let moved = Answer::status(307).header("Location", &elsewhere.plain_callback_url());
    let sandbox = Sandbox::builder().secret("key", KEY).secret_answers([moved]).start().await.unwrap();
    let ended = start_in(sandbox, Given { attributes: &[KEY_IN], ..GIVEN }).ended().await;
    let report = ended.report();
    assert_eq!(report["reason"], "InvalidJob");
    assert!(report["message"].as_str().unwrap().contains("answered 307"), "{report:#}");
    assert_eq!(elsewhere.requests(), [""; 0]);
}

#[tokio::test]
async fn a_secret_that_is_too_short_to_redact_is_told() {
    let cloud = |cloud: Builder| cloud.secret("key", "123\n");
    let given = Given { command: "docker run IMAGE env KEY", attributes: &[KEY_IN], cloud, ..GIVEN };
    let ended = run(given).await;
    assert_eq!(ended.report()["logs"]["tail"], "KEY=123\n\n");
    assert!(ended.logged("the secret has less than 4 characters, and is not redacted"));
}

#[tokio::test]
async fn an_outage_that_does_not_end_is_an_error_in_the_end() {
    for (answer, error) in [
        (
            Answer::page(),
            "answer of secretmanager.googleapis.com cannot be read: not the expected JSON at line 1",
        ),
        (503.into(), "secretmanager.googleapis.com answered 503"),
        (Answer::hang_up(), "secretmanager.googleapis.com does not answer: "),
    ] {
        let answers = vec![answer; 99];
        let sandbox = Sandbox::builder().secret("key", KEY).secret_answers(answers).start().await.unwrap();
        let problems = read(&sandbox, Duration::from_secs(1)).await.unwrap_err();
        let start = "longrun-secret-env-KEY: projects/p/secrets/key/versions/latest cannot be read: ";
        assert!(problems.len() == 1 && problems[0].starts_with(start), "{problems:?}");
        assert!(problems[0].contains(error), "{problems:?}");
        assert!(asked(&sandbox) > 1);
    }
}

#[tokio::test]
async fn a_service_that_asks_to_be_left_alone_is_not_asked_again_before_that() {
    let busy = Answer::status(429).header("Retry-After", "60");
    let sandbox = Sandbox::builder().secret("key", KEY).secret_answers([busy]).start().await.unwrap();
    let problems = read(&sandbox, Duration::from_secs(50)).await.unwrap_err();
    assert!(problems[0].contains("answered 429"), "{problems:?}");
    assert_eq!(asked(&sandbox), 1, "a minute does not fit into fifty seconds");
}

#[tokio::test]
async fn a_vm_without_service_account_has_no_secrets_and_does_not_wait_for_any() {
    let sandbox = Sandbox::builder().without_service_account().start().await.unwrap();
    let problems = read(&sandbox, Duration::from_secs(3600)).await.unwrap_err();
    assert!(problems[0].contains("this VM has no service account"), "{problems:?}");
    assert_eq!(asked(&sandbox), 0);
}

#[tokio::test]
async fn a_token_goes_to_google_alone_whatever_is_called() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let tokens = tokens(&sandbox);
    let outside = Outside::new(None);
    let api = Api::new(outside, Arc::new(tokens));
    for url in [&sandbox.plain_callback_url(), "https://secretmanager.googleapis.com.evil.example/v1/x"] {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let called = api.call(Method::GET, &url.parse().unwrap(), None, deadline, |_| Ok(())).await;
        assert!(matches!(called, Err(ApiError::NotGoogle { .. })), "{called:?}");
    }
    assert_eq!(sandbox.requests(), [""; 0]);
}

/// Looks for a secret in everything that left the VM.
#[track_caller]
fn assert_nowhere(ended: &Ended, secret: &str) {
    for text in [secret, &STANDARD.encode(secret)[..12]] {
        for call in ended.calls() {
            let body = String::from_utf8_lossy(&call.body).into_owned();
            assert!(!format!("{body} {:?} {}", call.headers, call.path).contains(text), "{body}");
        }
        assert!(!format!("{:?} {}", ended.log, ended.stderr).contains(text), "{:#?}", ended.log);
        assert!(!ended.sandbox.requests().concat().contains(text));
    }
}

/// Reads the secret `projects/p/secrets/key` as the agent does.
async fn read(sandbox: &Sandbox, patience: Duration) -> Result<Vec<secrets::Secret>, Vec<String>> {
    let (tokens, stand_in) = (tokens(sandbox), format!("http://{}", sandbox.address()));
    let outside = Outside::new(Some(stand_in.parse().unwrap()));
    secrets::read(&Api::new(outside, Arc::new(tokens)), Some("p"), &wanted(), patience).await
}

fn wanted() -> Vec<SecretEnv> {
    let attributes =
        [("callback-url", "https://x.googleapis.com/"), ("docker-command", "docker run a"), KEY_IN];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let order = Order::read(&Attributes::from(attributes), |path| fs::read(path)).unwrap();
    order.job.unwrap().secrets
}

fn tokens(sandbox: &Sandbox) -> Tokens {
    Tokens::of_vm(Metadata::new(format!("http://{}", sandbox.address()).parse().unwrap()))
}

/// How often Secret Manager was asked.
fn asked(sandbox: &Sandbox) -> usize {
    let asked = "GET secretmanager.googleapis.com/v1/projects/";
    sandbox.requests().iter().filter(|request| request.starts_with(asked)).count()
}
