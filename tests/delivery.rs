//! Delivery: whom the report goes to, with which credential, and what a refusal means.

mod machinery;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use gcp_auth::TokenProvider;
use longrun_agent::google::{Metadata, Tokens};
use machinery::{Callback, Ended, GIVEN, Given, run, start, start_in};
use sandbox::{Answer, Sandbox};

#[tokio::test]
async fn a_callback_that_answers_401_gets_a_fresh_token() {
    let ended = run(Given { cloud: |cloud| cloud.callback_answers([401]), ..GIVEN }).await;
    assert_accepted(&ended, &[401, 200]);
    let asked = ended.sandbox.requests().iter().filter(|request| request.contains("/token")).count();
    assert_eq!(asked, 2, "the refused token is asked for again");
}

#[tokio::test]
async fn whatever_may_pass_is_tried_again() {
    let cloud = |cloud: sandbox::Builder| {
        cloud.callback_answers([
            Answer::hang_up(),
            500.into(),
            Answer::status(429).header("Retry-After", "1"),
        ])
    };
    let ended = run(Given { cloud, ..GIVEN }).await;
    let statuses: Vec<_> = ended.calls().iter().filter_map(|call| call.status).collect();
    assert_eq!(statuses, [500, 429, 200]);
    ended.report();
}

#[tokio::test]
async fn an_answer_that_is_lost_on_its_way_is_asked_for_again_under_the_same_key() {
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([Answer::lost()]);
    let ended = run(Given { cloud, ..GIVEN }).await;
    let keys: Vec<_> = ended.calls().iter().map(|call| call.headers["idempotency-key"].clone()).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[tokio::test]
async fn a_report_that_is_too_large_goes_again_without_its_log_tail() {
    for status in [400, 413] {
        let sandbox = Sandbox::builder().callback_answers([status]).start().await.unwrap();
        let ended =
            start_in(sandbox, Given { command: "docker run IMAGE print hello", ..GIVEN }).ended().await;
        assert_accepted(&ended, &[status, 200]);
        assert_eq!(ended.calls()[0].report()["logs"]["tail"], "hello\n");
        let report = ended.report();
        assert_eq!(
            (&report["logs"]["tail"], report["logs"]["truncatedBytes"].as_u64()),
            (&"".into(), Some(6))
        );
    }
}

#[tokio::test]
async fn an_execution_that_is_over_ends_the_agent_with_76() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.end_execution();
    let ended = start_in(sandbox, GIVEN).ended().await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(76), 1));
    assert!(ended.logged("nobody waits for the report"));
    let given_up = ended.log.iter().find(|line| line["message"] == "the report is given up").unwrap();
    assert_eq!(given_up["error"], "the callback answered 404 Not Found; its execution is SUCCEEDED");
}

#[tokio::test]
async fn an_execution_that_the_service_does_not_know_is_over_too() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.forget_execution();
    let attributes = [("longrun-preflight", "off")];
    let ended = start_in(sandbox, Given { attributes: &attributes, ..GIVEN }).ended().await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(76), 1));
    let looks = ended.sandbox.requests().iter().filter(|line| line.contains("view=BASIC")).count();
    assert_eq!(looks, 2, "it is looked for twice");
}

#[tokio::test]
async fn a_404_is_tried_again_while_the_execution_is_active_or_nobody_knows() {
    // The second try is made at the deadline.
    let given = Given {
        environment: &[("LONGRUN_DELIVERY_DEADLINE", "1s")],
        attributes: &[("longrun-preflight", "off")],
        ..GIVEN
    };
    for cloud in [
        (|cloud| cloud) as fn(sandbox::Builder) -> sandbox::Builder,
        |cloud| cloud.without_permission("workflows.executions.get"),
        |cloud| cloud.execution_answers([503]),
        |cloud| cloud.execution_answers([Answer::page()]),
    ] {
        let sandbox = cloud(Sandbox::builder().callback_answers([404])).start().await.unwrap();
        assert_accepted(&start_in(sandbox, given).ended().await, &[404, 200]);
    }
}

#[tokio::test]
async fn a_report_that_lies_in_the_callbacks_slot_is_not_sent_again() {
    let cloud = |cloud: sandbox::Builder| cloud.unawaited_callback().callback_answers([Answer::lost()]);
    let ended = run(Given { cloud, ..GIVEN }).await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(0), 1));
    assert_eq!(ended.sandbox.consume_callback().unwrap()["reason"], "Completed");
}

#[tokio::test]
async fn a_report_of_an_agent_that_was_killed_before_it_knew_is_not_sent_again() {
    let environment = [("LONGRUN_FAIL_AT", "callback: answered#1")];
    let cloud = |cloud: sandbox::Builder| cloud.unawaited_callback();
    let agent = start(Given { environment: &environment, cloud, ..GIVEN }).await;
    agent.sandbox.next_report().await;
    let ended = agent.killed_and_started_again().await.ended().await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(0), 1));
    assert!(ended.logged("the callback holds the report already"));
}

#[tokio::test]
async fn another_report_in_the_slot_is_not_taken_for_this_one() {
    let cloud = |cloud: sandbox::Builder| cloud.unawaited_callback().callback_answers([Answer::hang_up()]);
    let mut agent = start(Given { cloud, command: "docker run IMAGE pause 500", ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.sandbox.fill_callback("{}");
    agent.says("the report was not accepted yet").await;
    agent.says("the report was not accepted yet").await;
    agent.sandbox.consume_callback();
    let statuses: Vec<_> = agent.ended().await.calls().iter().map(|call| call.status).collect();
    assert_eq!((statuses[0], statuses[1], statuses.last().unwrap()), (None, Some(429), &Some(200)));
}

#[tokio::test]
async fn a_callback_that_never_accepts_ends_the_agent_with_75_at_the_deadline() {
    let environment = [("LONGRUN_DELIVERY_DEADLINE", "1s")];
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503; 9]);
    let ended = run(Given { environment: &environment, cloud, ..GIVEN }).await;
    assert_eq!(ended.status.code(), Some(75));
    assert!(ended.calls().len() >= 2, "the last try is made at the deadline");
    assert!(ended.logged("the report was not accepted in 1s; the last try: the callback answered 503"));
}

#[tokio::test]
async fn a_vm_without_service_account_cannot_tell_a_workflow() {
    let environment = [("LONGRUN_DELIVERY_DEADLINE", "1s")];
    let cloud = |cloud: sandbox::Builder| cloud.without_service_account();
    let ended = run(Given { environment: &environment, cloud, ..GIVEN }).await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(75), 0));
    assert!(ended.logged("this VM has no service account"));
}

#[tokio::test]
async fn a_vm_without_service_account_runs_its_job_and_tells_others() {
    let cloud = |cloud: sandbox::Builder| cloud.without_service_account();
    let ended = run(Given { cloud, callback: Callback::Plain, ..GIVEN }).await;
    assert_eq!(ended.report()["reason"], "Completed");
}

#[tokio::test]
async fn the_workflow_gets_the_token_and_nobody_else_does() {
    let ended = run(GIVEN).await;
    let token = &ended.sandbox.tokens()[0];
    assert_eq!(ended.calls()[0].headers["authorization"], format!("Bearer {token}"));

    let ended = run(Given { callback: Callback::Plain, ..GIVEN }).await;
    assert_eq!(ended.calls()[0].headers.get("authorization"), None);
    ended.report();
}

#[tokio::test]
async fn off_compute_engine_a_persons_own_credentials_call_the_workflow_back() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let metadata = Metadata::new(format!("http://{}", sandbox.address()).parse().unwrap());
    let token = Tokens::of_vm(metadata).token(&[]).await.unwrap();
    // What gcp_auth's chain comes to in the end: gcloud, where somebody is logged in.
    let desk = tempfile::tempdir().unwrap();
    let gcloud = desk.path().join("gcloud");
    fs::write(&gcloud, format!("#!/bin/sh\necho {}\n", token.as_str())).unwrap();
    fs::set_permissions(&gcloud, fs::Permissions::from_mode(0o755)).unwrap();
    let job = desk.path().join("job.json");
    let command = format!("docker run {} exit 0", machinery::image());
    let attributes = serde_json::json!({ "docker-command": command, "callback-url": sandbox.callback_url() });
    fs::write(&job, attributes.to_string()).unwrap();

    let folder = desk.path().to_str().unwrap();
    let environment = [("LONGRUN_JOB_FILE", job.to_str().unwrap()), ("PATH", folder), ("HOME", folder)];
    let given = Given { command: "", callback: Callback::Missing, environment: &environment, ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    assert_accepted(&ended, &[200]);
    assert_eq!(ended.calls()[0].headers["authorization"], format!("Bearer {}", token.as_str()));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Sandbox::builder().start().await.unwrap();
    let target = elsewhere.plain_callback_url();
    let moved = Answer::status(307).header("Location", &target);
    let sandbox = Sandbox::builder().callback_answers([moved]).start().await.unwrap();
    let given = Given { environment: &[("LONGRUN_DELIVERY_DEADLINE", "1s")], ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    assert_eq!(ended.calls()[0].status, Some(307));
    assert!(elsewhere.calls().is_empty() && elsewhere.complaints().is_empty());
}

#[tokio::test]
async fn a_callback_by_get_or_head_learns_the_outcome_from_headers() {
    for method in ["GET", "HEAD"] {
        let sandbox = Sandbox::builder().callback_method(method).start().await.unwrap();
        let attributes = [("longrun-callback-method", method)];
        let given = Given { command: "docker run IMAGE exit 3", attributes: &attributes, ..GIVEN };
        let ended = start_in(sandbox, given).ended().await;
        let call = &ended.calls()[0];
        assert_eq!((call.method.as_str(), call.status, call.body.len()), (method, Some(200), 0));
        for (name, value) in
            [("longrun-outcome", "Failed"), ("longrun-reason", "Error"), ("longrun-exit-code", "3")]
        {
            assert_eq!(call.headers[name], value);
        }
    }
}

#[tokio::test]
async fn every_other_verb_carries_the_report() {
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS"] {
        let sandbox = Sandbox::builder().callback_method(method).start().await.unwrap();
        let attributes = [("longrun-callback-method", method)];
        let ended = start_in(sandbox, Given { attributes: &attributes, ..GIVEN }).ended().await;
        assert_eq!(ended.report()["reason"], "Completed", "{method}");
    }
}

#[tokio::test]
async fn an_agent_that_is_stopped_while_it_delivers_tries_once_more() {
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([403, 503]);
    let mut agent = start(Given { cloud, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    agent.signal("TERM");
    let ended = agent.ended().await;
    assert_eq!((ended.status.code(), ended.calls().len()), (Some(75), 2));
}

#[tokio::test]
async fn the_last_try_of_an_agent_that_is_stopped_has_seconds() {
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([403.into(), Answer::silence()]);
    let mut agent = start(Given { cloud, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    let told = Instant::now();
    agent.signal("TERM");
    assert_eq!(agent.ended().await.status.code(), Some(75));
    assert!(told.elapsed() < Duration::from_secs(9), "Docker would have killed it: {:?}", told.elapsed());
}

#[track_caller]
fn assert_accepted(ended: &Ended, statuses: &[u16]) {
    let seen: Vec<_> = ended.calls().iter().filter_map(|call| call.status).collect();
    assert_eq!(seen, statuses);
    ended.report();
    assert_eq!(ended.status.code(), Some(0));
}
