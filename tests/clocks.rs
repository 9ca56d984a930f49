//! The wall clock jumps by a day, as it may in the first minutes of a boot: no time that the agent keeps is
//! shortened or lengthened by it.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::time::Duration;

use machinery::{
    GIVEN, Given,
    host::{Clock, Shared},
    start,
};
use serde_json::{Value, json};

const DAY: i64 = 24 * 3600;
const JUMPS: [i64; 2] = [DAY, -DAY];
const AN_HOUR: (&str, &str) = ("longrun-timeout", "1h");
const SECONDS: (&str, &str) = ("longrun-timeout", "3s");

#[tokio::test]
async fn a_jump_under_the_job_neither_ends_it_nor_lets_it_run_on() {
    for jump in JUMPS {
        for (attribute, words, reason) in [
            (AN_HOUR, "file /vm/up yes pause 1500", "Completed"),
            (SECONDS, "file /vm/up yes wait", "DeadlineExceeded"),
        ] {
            let (clock, shared) = (Clock::right(), Shared::folder());
            let (command, attributes) = (shared.command(words), [attribute]);
            let given = Given { command: &command, attributes: &attributes, ..GIVEN };
            let agent = start(Given { under: &clock.under(), ..given }).await;
            shared.passed("up").await;
            clock.jump(jump);
            let report = agent.ended().await.report();
            assert_eq!(report["reason"], reason, "{jump} {report:#}");
            has_sane_times(&report);
        }
    }
}

#[tokio::test]
async fn a_jump_before_the_take_over_does_not_change_how_long_the_job_has_left() {
    for jump in JUMPS {
        let (clock, shared) = (Clock::right(), Shared::folder());
        let command = shared.command("file /vm/up yes await /vm/go");
        let given = Given { command: &command, attributes: &[AN_HOUR], ..GIVEN };
        let agent = start(Given { under: &clock.under(), ..given }).await;
        shared.passed("up").await;
        let mut agent = agent.killed_and_started_after(|| clock.jump(jump)).await;
        let left = agent.says("the job runs").await["time_left"].as_str().unwrap().to_owned();
        shared.let_pass("go");
        let report = agent.ended().await.report();
        assert_eq!(report["reason"], "Completed", "{jump} {report:#}");
        has_sane_times(&report);
        let left = left.trim_start_matches("Some(").trim_end_matches("s)").parse().unwrap();
        assert!((3500.0..3600.0).contains(&left), "{left} seconds are left after {jump}");
    }
}

#[tokio::test]
async fn a_timeout_is_kept_by_an_agent_that_took_over_after_a_jump() {
    for jump in JUMPS {
        let (clock, shared) = (Clock::right(), Shared::folder());
        let command = shared.command("file /vm/up yes wait");
        let given = Given { command: &command, attributes: &[SECONDS], ..GIVEN };
        let agent = start(Given { under: &clock.under(), ..given }).await;
        shared.passed("up").await;
        let agent = agent.killed_and_started_after(|| clock.jump(jump)).await;
        let report = agent.ended().await.report();
        assert_eq!(report["reason"], "DeadlineExceeded", "{jump} {report:#}");
        has_sane_times(&report);
    }
}

#[tokio::test]
async fn a_jump_does_not_end_the_delivery() {
    for jump in JUMPS {
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
