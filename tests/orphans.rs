//! Orphans: what becomes of a job, and of its VM, when the workflow that waits is gone.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::time::Duration;

use machinery::{Agent, Callback, Ended, GIVEN, Given, docker, run, start, start_in};
use sandbox::{Answer, INSTANCE, Sandbox};
use tokio::time::timeout;

/// A job that ends when it is told to, and an agent that looks often.
const WAITING: Given<'static> =
    Given { command: "docker run IMAGE wait", environment: &[("LONGRUN_ORPHAN_CHECK", "200ms")], ..GIVEN };
const DELETE_VM: &[(&str, &str)] = &[("longrun-when-orphaned", "delete-vm")];
const NO_PREFLIGHT: &[(&str, &str)] = &[("longrun-preflight", "off")];

#[tokio::test]
async fn a_job_is_stopped_when_its_execution_is_over_and_the_agent_ends_with_76() {
    type End = fn(&Sandbox);
    for end in [Sandbox::cancel_execution as End, Sandbox::end_execution, Sandbox::forget_execution] {
        let (agent, _) = running(WAITING).await;
        end(&agent.sandbox);
        let ended = agent.ended().await;
        assert_orphaned(&ended, Some(143));
        assert_eq!(ended.sandbox.deleted_instances(), [""; 0]);
    }
}

#[tokio::test]
async fn a_job_that_ignores_the_stop_is_killed_after_its_grace() {
    let command = "docker run --stop-timeout 1 IMAGE ignore-term wait";
    let (agent, _) = running(Given { command, ..WAITING }).await;
    agent.sandbox.cancel_execution();
    assert_orphaned(&agent.ended().await, Some(137));
}

#[tokio::test]
async fn an_agent_that_took_the_job_over_watches_too() {
    let (agent, _) = running(WAITING).await;
    let mut agent = agent.killed_and_started_again().await;
    agent.says("the job runs").await;
    agent.sandbox.cancel_execution();
    assert_orphaned(&agent.ended().await, Some(143));
}

#[tokio::test]
async fn a_job_that_is_to_be_kept_runs_on() {
    let attributes = [("longrun-when-orphaned", "keep")];
    let (mut agent, container) = running(Given { attributes: &attributes, ..WAITING }).await;
    agent.sandbox.cancel_execution();
    agent.says("the workflow's execution is over").await;
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &container]), "true");
    docker(&["kill", "--signal", "TERM", &container]);
    let ended = agent.ended().await;
    assert_eq!(ended.status.code(), Some(76));
    assert_eq!(reason(&ended), "Error");
    assert_eq!(times(&ended, "nobody waits for the job"), 1);
}

#[tokio::test]
async fn the_vm_is_deleted_once_the_job_has_ended() {
    let (agent, container) = running(Given { attributes: DELETE_VM, ..WAITING }).await;
    agent.sandbox.cancel_execution();
    let ended = agent.ended().await;
    assert_orphaned(&ended, Some(143));
    assert_eq!(ended.sandbox.deleted_instances(), [INSTANCE]);
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("id={container}")]), "");
    let requests = ended.sandbox.requests();
    let last = requests.last().unwrap();
    assert!(last.starts_with("DELETE compute.googleapis.com/compute/v1/projects/"), "{last}");
}

#[tokio::test]
async fn a_compute_engine_on_a_bad_day_is_asked_again() {
    let cloud = |cloud: sandbox::Builder| cloud.compute_answers([503.into(), Answer::page()]);
    let (agent, _) = running(Given { attributes: DELETE_VM, cloud, ..WAITING }).await;
    agent.sandbox.cancel_execution();
    assert_eq!(agent.ended().await.sandbox.deleted_instances(), [INSTANCE]);
}

#[tokio::test]
async fn a_vm_that_may_not_delete_itself_says_what_to_grant() {
    let cloud = |cloud: sandbox::Builder| cloud.without_permission("compute.instances.delete");
    let (agent, _) = running(Given { attributes: DELETE_VM, cloud, ..WAITING }).await;
    agent.sandbox.cancel_execution();
    let ended = agent.ended().await;
    assert_orphaned(&ended, Some(143));
    assert!(ended.logged("needs compute.instances.delete; run: gcloud projects add-iam-policy-binding"));
}

#[tokio::test]
async fn a_vm_is_not_deleted_while_nobody_knows_whether_its_workflow_is_gone() {
    // The delivery finds the execution gone, and the last look before the deletion brings no answer.
    let cloud = |cloud: sandbox::Builder| cloud.execution_answers([404, 404, 503]);
    let attributes = [DELETE_VM, NO_PREFLIGHT].concat();
    let (agent, _) = running(Given { attributes: &attributes, cloud, environment: &[], ..WAITING }).await;
    agent.sandbox.cancel_execution();
    agent.signal("TERM");
    let ended = agent.ended().await;
    assert_eq!((ended.status.code(), ended.sandbox.deleted_instances()), (Some(76), Vec::new()));
    assert!(ended.logged("the VM stays"));
}

#[tokio::test]
async fn a_missing_permission_turns_the_watch_off_with_one_warning() {
    let cloud = |cloud: sandbox::Builder| cloud.without_permission("workflows.executions.get");
    let command = "docker run IMAGE pause 1500";
    let ended = run(Given { command, cloud, attributes: NO_PREFLIGHT, ..WAITING }).await;
    assert_eq!((ended.report()["reason"].as_str(), looks(&ended)), (Some("Completed"), 1));
    assert_eq!(times(&ended, "if the workflow is cancelled, that will not be seen before the job ends"), 1);
    assert!(ended.logged("workflows.executions.get") && ended.logged("run: gcloud projects"));
}

#[tokio::test]
async fn no_doubtful_answer_ends_a_job() {
    let cloud = |cloud: sandbox::Builder| {
        let doubtful =
            [Answer::status(503), Answer::page(), Answer::hang_up(), 429.into(), 401.into(), 401.into()];
        cloud.execution_answers(doubtful.into_iter().chain([404.into()]))
    };
    let (agent, container) = running(Given { cloud, attributes: NO_PREFLIGHT, ..WAITING }).await;
    // Every doubtful answer, the second look after the 404, and the next one.
    let looks = agent.sandbox.requested(9, "view=BASIC");
    timeout(Duration::from_secs(60), looks).await.expect("the agent looks no more");
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &container]), "true");
    agent.signal("TERM");
    assert_eq!(agent.ended().await.report()["reason"], "Stopped");
}

#[tokio::test]
async fn a_job_whose_workflow_was_gone_before_it_began_does_not_run() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.cancel_execution();
    let attributes = [("longrun-preflight", "require")];
    let ended = start_in(sandbox, Given { attributes: &attributes, ..WAITING }).ended().await;
    assert_orphaned(&ended, None);
    assert!(ended.logged("the agent saw that the workflow that waited is gone, before the job was running"));
    assert!(!ended.logged("the job runs"));
}

#[tokio::test]
async fn a_delivery_ends_when_its_execution_is_cancelled() {
    let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503]);
    let mut agent = start(Given { cloud, ..GIVEN }).await;
    agent.says("the report was not accepted yet").await;
    agent.sandbox.cancel_execution();
    let ended = agent.ended().await;
    assert_eq!((ended.status.code(), reason(&ended).as_str()), (Some(76), "Completed"));
}

#[tokio::test]
async fn when_the_delivery_deadline_passed_the_vm_is_deleted_if_that_is_the_rule() {
    for (rule, deleted) in [("delete-vm", &[INSTANCE][..]), ("stop-job", &[])] {
        let attributes = [("longrun-when-orphaned", rule)];
        let environment = [("LONGRUN_DELIVERY_DEADLINE", "1s")];
        for callback in [Callback::Workflow, Callback::Plain] {
            let cloud = |cloud: sandbox::Builder| cloud.callback_answers([503; 9]);
            let given =
                Given { attributes: &attributes, environment: &environment, cloud, callback, ..GIVEN };
            let ended = run(given).await;
            assert_eq!(
                (ended.status.code(), ended.sandbox.deleted_instances()),
                (Some(75), deleted.iter().map(|name| (*name).to_owned()).collect())
            );
        }
    }
}

/// An agent whose job runs, and the job's container.
async fn running(given: Given<'_>) -> (Agent, String) {
    let mut agent = start(given).await;
    let line = agent.says("the job runs").await;
    (agent, line["container"].as_str().unwrap().to_owned())
}

/// Nobody was told, and the agent says so; that the container is gone is checked at every end.
#[track_caller]
fn assert_orphaned(ended: &Ended, exit_code: Option<u8>) {
    assert_eq!(ended.status.code(), Some(76), "{:#?}", ended.log);
    assert_eq!(ended.sandbox.reports().len(), 0);
    let end = end(ended);
    assert_eq!((&end["reason"], &end["exit_code"]), (&"Orphaned".into(), &exit_code.into()), "{end:#}");
}

/// What the agent logged of the job's end.
#[track_caller]
fn end(ended: &Ended) -> &serde_json::Value {
    ended.log.iter().find(|line| !line["reason"].is_null()).expect("an end")
}

fn reason(ended: &Ended) -> String {
    end(ended)["reason"].as_str().unwrap().to_owned()
}

/// How often the agent logged this.
fn times(ended: &Ended, message: &str) -> usize {
    ended.log.iter().filter(|line| line["message"].as_str().unwrap().contains(message)).count()
}

/// How often the execution was looked at.
fn looks(ended: &Ended) -> usize {
    ended.sandbox.requests().iter().filter(|line| line.contains("view=BASIC")).count()
}
