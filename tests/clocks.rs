//! The wall clock jumps by a day, as it may in the first minutes of a boot: no time that the agent keeps is
//! shortened or lengthened by it.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::time::Duration;

use machinery::{
    Agent, GIVEN, Given,
    engine_proxy::{EngineProxy, Fault},
    host::{Clock, Shared},
    start,
};
use serde_json::{Value, json};
use tokio::join;

const DAY: i64 = 24 * 3600;
const AN_HOUR: (&str, &str) = ("longrun-timeout", "1h");
const SECONDS: (&str, &str) = ("longrun-timeout", "3s");

#[tokio::test]
async fn a_jump_under_the_job_neither_ends_it_nor_lets_it_run_on() {
    let row = async |jump, command, timeout, reason| {
        let clock = Clock::right();
        let mut agent =
            start(Given { command, attributes: &[timeout], under: &clock.under(), ..GIVEN }).await;
        agent.says("the job runs").await;
        clock.jump(jump);
        let report = agent.ended().await.report();
        assert_eq!(report["reason"], reason, "{jump} {report:#}");
        has_sane_times(&report);
    };
    join!(
        row(DAY, "docker run IMAGE pause 1500", AN_HOUR, "Completed"),
        row(-DAY, "docker run IMAGE pause 1500", AN_HOUR, "Completed"),
        row(DAY, "docker run IMAGE wait", SECONDS, "DeadlineExceeded"),
        row(-DAY, "docker run IMAGE wait", SECONDS, "DeadlineExceeded"),
    );
}

#[tokio::test]
async fn a_jump_before_the_take_over_does_not_change_how_long_the_job_has_left() {
    for jump in [DAY, -DAY] {
        let (clock, shared) = (Clock::right(), Shared::folder());
        let mut agent = taken_over_after(&clock, jump, &shared.command("await /vm/go"), AN_HOUR).await;
        let left = agent.says("the job runs").await["time_left"].as_str().unwrap().to_owned();
        shared.let_pass("go");
        let left = left.trim_start_matches("Some(").trim_end_matches("s)").parse().unwrap();
        assert!((3500.0..3600.0).contains(&left), "{left} seconds are left after {jump}");
        let report = agent.ended().await.report();
        assert_eq!(report["reason"], "Completed", "{jump} {report:#}");
        has_sane_times(&report);
    }
}

#[tokio::test]
async fn a_timeout_is_kept_by_an_agent_that_took_over_after_a_jump() {
    let row = async |jump| {
        let clock = Clock::right();
        let agent = taken_over_after(&clock, jump, "docker run IMAGE wait", SECONDS).await;
        let report = agent.ended().await.report();
        assert_eq!(report["reason"], "DeadlineExceeded", "{jump} {report:#}");
        has_sane_times(&report);
    };
    join!(row(DAY), row(-DAY));
}

#[tokio::test]
async fn a_jump_does_not_end_the_delivery() {
    for jump in [DAY, -DAY] {
        let clock = Clock::right();
        let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503, 503]);
        let mut agent = start(Given { cloud, under: &clock.under(), ..GIVEN }).await;
        agent.says("the report was not accepted yet").await;
        let mut agent = agent.killed_and_started_after(|| clock.jump(jump)).await;
        agent.says("the report was not accepted yet").await;
        clock.jump(0);
        let ended = agent.ended().await;
        let statuses: Vec<_> = ended.calls().iter().filter_map(|call| call.status).collect();
        assert_eq!(statuses, [503, 503, 200], "{jump}");
        assert_eq!(ended.report()["reason"], "Completed");
    }
}

#[tokio::test]
async fn a_job_whose_times_docker_cannot_tell_does_not_end_before_it_started() {
    let proxy = EngineProxy::start(&[("GET /containers /json", Fault::Close); 99]);
    let (clock, shared, host) = (Clock::right(), Shared::folder(), proxy.docker_host());
    let command = shared.command("await /vm/go");
    let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", "1s")];
    let given = Given { command: &command, environment: &environment, ..GIVEN };
    let mut agent = start(Given { under: &clock.under(), ..given }).await;
    agent.says("the job runs").await;
    clock.jump(-DAY);
    shared.let_pass("go");
    has_sane_times(&agent.ended().await.report());
}

/// An agent that took a running job over after a jump.
async fn taken_over_after(clock: &Clock, jump: i64, command: &str, timeout: (&str, &str)) -> Agent {
    let mut agent = start(Given { command, attributes: &[timeout], under: &clock.under(), ..GIVEN }).await;
    agent.says("the job runs").await;
    agent.killed_and_started_after(|| clock.jump(jump)).await
}

/// An attempt ends after it started, and the report covers all of them.
#[track_caller]
fn has_sane_times(report: &Value) {
    let time = |value: &Value| humantime::parse_rfc3339(value.as_str().unwrap()).unwrap();
    let ran = time(&report["finishedAt"]).duration_since(time(&report["startedAt"])).unwrap();
    assert!(ran < Duration::from_secs(60), "{report:#}");
    let attempt = &report["attempts"][0];
    assert_eq!(
        json!([attempt["startedAt"], attempt["finishedAt"]]),
        json!([report["startedAt"], report["finishedAt"]])
    );
}
