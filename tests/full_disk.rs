//! A state folder that is full, or that cannot be written: the job runs and its end is told, and what is lost is
//! said beforehand.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{
    Agent, GIVEN, Given, docker,
    host::{Shared, SmallDisk},
    start,
};
use serde_json::{Value, json};

/// What the agent says before anything is lost.
const WARNING: &str =
    "the journal cannot be written; until it can, a job whose container is gone would be run again";

#[tokio::test]
async fn a_disk_that_the_job_filled_still_takes_its_report_and_that_it_was_told() {
    // Bytes that JSON makes six times as long.
    for words in ["write bye exit 3", "cat /vm/unprintable exit 3"] {
        let (disk, shared) = (SmallDisk::mount(), Shared::folder());
        shared.write("unprintable", &[1; 64 << 10]);
        let (mut agent, _) = running(&disk, &shared, &format!("await /vm/go {words}"), GIVEN).await;
        disk.fill();
        shared.let_pass("go");
        agent.is_gone().await;
        let first = agent.sandbox.next_report().await;
        assert_eq!((&first["exitCode"], attempts(&first)), (&json!(3), 1), "{first:#}");
        let ended = agent.killed_and_started_again().await.ended().await;
        assert_eq!((ended.status.code(), ended.calls().len()), (Some(0), 1), "{words}: {:#?}", ended.log);
        assert!(!ended.logged("the job runs"), "{:#?}", ended.log);
    }
}

#[tokio::test]
async fn a_report_that_waits_on_a_full_disk_is_told_by_the_next_agent() {
    let (disk, shared) = (SmallDisk::mount(), Shared::folder());
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503]);
    let given = Given { cloud, ..GIVEN };
    let (mut agent, container) = running(&disk, &shared, "await /vm/go exit 3", given).await;
    disk.fill();
    shared.let_pass("go");
    agent.says("the report was not accepted yet").await;
    // Nothing but the journal knows of it any more.
    let agent = agent.killed_and_started_after(|| docker(&["rm", &container])).await;
    let ended = agent.ended().await;
    assert_eq!((&ended.report()["exitCode"], attempts(&ended.report())), (&json!(3), 1));
    assert_eq!(ended.calls()[0].report(), ended.calls()[1].report());
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_neither_the_job_nor_its_take_over() {
    let (disk, shared) = (SmallDisk::mount(), Shared::folder());
    disk.make_read_only();
    let (agent, container) = running(&disk, &shared, "print early await /vm/go exit 3", GIVEN).await;
    let mut agent = agent.killed_and_started_again().await;
    agent.says(WARNING).await;
    assert_eq!(agent.says("the job was started before; taking it over").await["container"], container);
    shared.let_pass("go");
    let ended = agent.ended().await;
    let report = ended.report();
    assert_eq!((&report["exitCode"], attempts(&report)), (&json!(3), 1), "{report:#}");
    assert_eq!(report["logs"]["tail"], "early\n");
}

#[tokio::test]
async fn what_a_folder_that_cannot_be_written_costs_is_said_before_the_job_runs() {
    for spoil in [SmallDisk::make_read_only, SmallDisk::fill] {
        let (disk, shared) = (SmallDisk::mount(), Shared::folder());
        spoil(&disk);
        let command = shared.command("exit 3");
        let environment = [("LONGRUN_STATE_DIR", disk.path())];
        let mut agent = start(Given { command: &command, environment: &environment, ..GIVEN }).await;
        agent.says(WARNING).await;
        agent.says("the job runs").await;
        let ended = agent.ended().await;
        assert_eq!((ended.status.code(), &ended.report()["exitCode"]), (Some(0), &json!(3)));
        assert_eq!(warnings(&ended.log), 1, "{:#?}", ended.log);
    }
}

#[tokio::test]
async fn a_folder_that_can_no_longer_be_written_is_said_once_and_the_end_is_told() {
    let (disk, shared) = (SmallDisk::mount(), Shared::folder());
    let (agent, _) = running(&disk, &shared, "await /vm/go exit 3", GIVEN).await;
    disk.make_read_only();
    shared.let_pass("go");
    let ended = agent.ended().await;
    assert_eq!((ended.status.code(), &ended.report()["exitCode"]), (Some(0), &json!(3)));
    assert_eq!(warnings(&ended.log), 1, "{:#?}", ended.log);
}

#[tokio::test]
async fn a_folder_that_can_be_written_again_is() {
    let (disk, shared) = (SmallDisk::mount(), Shared::folder());
    let given = Given { attributes: &[("longrun-max-attempts", "2")], ..GIVEN };
    let words = "await /vm/go once /vm/failed 3 await /vm/on exit 4";
    let (mut agent, _) = running(&disk, &shared, words, given).await;
    disk.make_read_only();
    shared.let_pass("go");
    agent.says(WARNING).await;
    disk.make_writable();
    agent.says("the job runs").await;
    let agent = agent.killed_and_started_again().await;
    shared.let_pass("on");
    let ended = agent.ended().await;
    assert_eq!((&ended.report()["exitCode"], attempts(&ended.report())), (&json!(4), 2));
    assert_eq!(warnings(&ended.log), 0, "{:#?}", ended.log);
}

/// An agent with its journal on this disk, whose job runs, and the job's container.
async fn running(disk: &SmallDisk, shared: &Shared, words: &str, given: Given<'_>) -> (Agent, String) {
    let (command, environment) = (shared.command(words), [("LONGRUN_STATE_DIR", disk.path())]);
    let mut agent = start(Given { command: &command, environment: &environment, ..given }).await;
    let container = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
    (agent, container)
}

fn attempts(report: &Value) -> usize {
    report["attempts"].as_array().unwrap().len()
}

/// How often the agent said what is lost.
fn warnings(log: &[Value]) -> usize {
    log.iter().filter(|line| line["message"].as_str().unwrap().starts_with(WARNING)).count()
}
