//! The preflight: what would keep the report from the workflow is told in seconds, with what to grant.

mod machinery;

use machinery::{Callback, Ended, GIVEN, Given, run, start_in};
use sandbox::{Answer, Builder, INSTANCE, PROJECT, SERVICE_ACCOUNT, Sandbox, ZONE};

const REQUIRE: &[(&str, &str)] = &[("longrun-preflight", "require")];
const OFF: &[(&str, &str)] = &[("longrun-preflight", "off")];
/// Nothing gets through without a scope or an account.
const SOON_OVER: &[(&str, &str)] = &[("LONGRUN_DELIVERY_DEADLINE", "1s")];

fn without_scope(cloud: Builder) -> Builder {
    cloud.scopes(&["https://www.googleapis.com/auth/devstorage.read_only"])
}

fn without_permission(cloud: Builder) -> Builder {
    cloud.without_permission("workflows.executions.get")
}

#[tokio::test]
async fn a_missing_scope_is_told_with_the_command_that_sets_it_and_the_job_runs() {
    let ended = run(Given { cloud: without_scope, environment: SOON_OVER, ..GIVEN }).await;
    let expected = format!(
        "run: gcloud compute instances set-service-account {INSTANCE} --zone={ZONE} --scopes=cloud-platform"
    );
    assert_one_error(&ended, &["lack the scope cloud-platform", &expected]);
    assert!(ended.logged("the job runs"));
}

#[tokio::test]
async fn a_missing_service_account_is_told_and_the_job_runs() {
    let cloud = |cloud: Builder| cloud.without_service_account();
    let ended = run(Given { cloud, environment: SOON_OVER, ..GIVEN }).await;
    assert_one_error(&ended, &["no service account", "--service-account=ACCOUNT --scopes=cloud-platform"]);
    assert!(ended.logged("the job runs"));
}

#[tokio::test]
async fn a_missing_permission_is_told_with_the_role_that_grants_it_and_the_job_runs() {
    let ended = run(Given { cloud: without_permission, ..GIVEN }).await;
    let grant = format!(
        "gcloud projects add-iam-policy-binding {PROJECT} --member=serviceAccount:{SERVICE_ACCOUNT} \
         --role=roles/workflows.invoker"
    );
    assert_one_error(&ended, &["workflows.executions.get", &grant]);
    assert_eq!(ended.report()["reason"], "Completed");
}

#[tokio::test]
async fn where_the_preflight_is_required_nothing_runs_if_it_fails() {
    let ended = run(Given { cloud: without_permission, attributes: REQUIRE, ..GIVEN }).await;
    let report = ended.report();
    assert_eq!((&report["reason"], report["attempts"].as_array().unwrap().len()), (&"InvalidJob".into(), 0));
    let message = report["message"].as_str().unwrap();
    assert!(message.starts_with("longrun-preflight: ") && message.contains("gcloud projects"), "{message}");
    assert!(!ended.logged("the job runs"));
}

#[tokio::test]
async fn where_the_preflight_is_required_the_job_runs_if_it_succeeds() {
    let ended = run(Given { attributes: REQUIRE, ..GIVEN }).await;
    assert_eq!(ended.report()["reason"], "Completed");
    assert!(ended.sandbox.requests().iter().any(|line| line.contains("view=BASIC")));
    assert_eq!(errors(&ended), [""; 0]);
}

#[tokio::test]
async fn where_the_preflight_is_required_and_nobody_waits_for_a_workflow_the_job_runs() {
    let ended = run(Given { attributes: REQUIRE, callback: Callback::Plain, ..GIVEN }).await;
    assert_eq!(ended.report()["reason"], "Completed");
}

#[tokio::test]
async fn an_execution_that_is_over_and_a_job_that_is_to_be_kept_pass() {
    let attributes = [("longrun-when-orphaned", "keep"), REQUIRE[0]];
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.cancel_execution();
    let ended = start_in(sandbox, Given { attributes: &attributes, ..GIVEN }).ended().await;
    assert!(ended.logged("the job runs") && ended.logged("nobody waits for the job"));
    assert_eq!(ended.status.code(), Some(76));
}

#[tokio::test]
async fn nobody_looks_where_the_preflight_is_off() {
    let ended = run(Given { cloud: without_permission, attributes: OFF, ..GIVEN }).await;
    assert_eq!((errors(&ended), ended.report()["reason"].as_str()), (Vec::new(), Some("Completed")));
    assert!(!ended.sandbox.requests().iter().any(|line| line.contains("view=BASIC")));
}

#[tokio::test]
async fn a_service_that_is_away_costs_the_job_no_time_and_is_no_error() {
    for answer in [Answer::silence(), 503.into(), Answer::page()] {
        let sandbox = Sandbox::builder().execution_answers(vec![answer; 99]).start().await.unwrap();
        let ended = start_in(sandbox, GIVEN).ended().await;
        assert_eq!((errors(&ended), ended.report()["reason"].as_str()), (Vec::new(), Some("Completed")));
        assert!(
            !ended.logged("whether the report will reach the workflow is not known"),
            "it was waited for"
        );
    }
}

#[track_caller]
fn assert_one_error(ended: &Ended, parts: &[&str]) {
    let errors = errors(ended);
    let told: Vec<_> = errors.iter().filter(|line| line.starts_with("the report may not reach")).collect();
    assert_eq!(told.len(), 1, "{errors:#?}");
    for part in parts {
        assert!(told[0].contains(part), "{part} is not in {}", told[0]);
    }
}

/// The errors that the agent logged.
fn errors(ended: &Ended) -> Vec<&str> {
    let errors = ended.log.iter().filter(|line| line["severity"] == "ERROR");
    errors.filter_map(|line| line["message"].as_str()).collect()
}
