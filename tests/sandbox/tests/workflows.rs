//! The workflows of `deploy/`, run: each VM that they insert is an agent with a job on this machine's Engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use sandbox::workflow::{Execution, News};
use sandbox::{Builder, Fate, Sandbox, agent_within, job, tools, workflow};
use serde_json::{Value, json};
use tokio::process::Command;

use Fate::{Late, Lost, Mute, Preempted, Refused, Spared, ToldTwice};

/// Google's own reader of what is sent to Compute Engine.
const PROTOS: &str = "
import json, sys
from google.cloud.compute_v1 import Instance
for body in json.load(sys.stdin):
    Instance.from_json(json.dumps(body))
";

#[tokio::test]
async fn a_job_runs_on_a_vm_of_its_own_and_its_report_is_the_result() {
    let ran = run("workflow", &[], json!({ "image": image(), "command": "print hello exit 0" })).await;
    let report = ran.result();
    assert_eq!((&report["reason"], &report["logs"]["tail"]), (&json!("Completed"), &json!("hello\n")));
    assert_eq!(ran.sandbox.ordered_instances()[0]["name"], report["instance"]["name"]);
    ran.assert_nothing_is_left(1);
    assert!(ran.execution.largest < 64 << 10, "{} bytes of variables", ran.execution.largest);
}

#[tokio::test]
async fn a_job_that_failed_is_an_error_that_carries_the_report() {
    let args = json!({ "image": image(), "command": "print oh exit 3" });
    let ran = run("workflow", &[], args.clone()).await;
    let error = ran.error();
    assert_eq!(error["tags"], json!(["JobFailed", "Error"]));
    assert_eq!(error["message"], "longrun Error, the job exited with code 3");
    assert_eq!((&error["report"]["exitCode"], &error["report"]["logs"]["tail"]), (&json!(3), &json!("oh\n")));
    ran.assert_nothing_is_left(1);

    let ran = run("workflow", &[], with(args, json!({ "failOnError": false }))).await;
    assert_eq!(ran.result()["exitCode"], 3);
    ran.assert_nothing_is_left(1);
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_ended() {
    let args = json!({ "image": image(), "command": "wait", "timeoutSeconds": 1 });
    let ran = run("workflow", &[], with(args, json!({ "attributes": { "longrun-stop-grace": "1s" } }))).await;
    assert_eq!(ran.error()["tags"], json!(["JobFailed", "DeadlineExceeded"]));
    ran.assert_nothing_is_left(1);
}

#[tokio::test]
async fn a_preempted_job_runs_again_in_the_next_zone() {
    let zones = json!({ "zones": ["europe-west1-b", "europe-west1-c"], "spot": true });
    let ran = run_until_spared(&[Preempted, Preempted], zones).await;
    let name = ran.result()["instance"]["name"].as_str().expect("a name").to_owned();
    assert!(name.ends_with("-3"), "{name}");
    let zones: Vec<_> =
        ran.sandbox.ordered_instances().iter().map(|order| order["machineType"].clone()).collect();
    let machine = |zone: &str| json!(format!("zones/{zone}/machineTypes/e2-small"));
    assert_eq!(zones, ["europe-west1-b", "europe-west1-c", "europe-west1-b"].map(machine));
    assert_eq!(ran.execution.logged.last().expect("a warning")["tried"][1]["reason"], "Preempted");
    ran.assert_nothing_is_left(3);
}

#[tokio::test]
async fn a_job_that_is_preempted_too_often_is_an_error() {
    let args = json!({ "image": image(), "command": "wait", "vms": 1, "spot": true });
    let ran = run("workflow", &[Preempted], args).await;
    assert_eq!(ran.error()["tags"], json!(["JobFailed", "Preempted"]));
    ran.assert_nothing_is_left(1);
}

#[tokio::test]
async fn a_report_that_comes_twice_is_not_taken_for_the_next_vms() {
    let ran = run_until_spared(&[ToldTwice], json!({})).await;
    let name = ran.result()["instance"]["name"].as_str().expect("a name").to_owned();
    assert!(name.ends_with("-2") && ran.execution.steps.iter().any(|step| step == "forget"), "{name}");
    ran.assert_nothing_is_left(2);
}

#[tokio::test]
async fn a_zone_without_room_is_followed_by_the_next_one() {
    let args = json!({ "image": image(), "command": "exit 0", "zones": ["a-b1-c", "a-b1-d"] });
    let ran = run("workflow", &[Refused], args.clone()).await;
    assert_eq!(ran.result()["instance"]["zone"], "a-b1-d");
    ran.assert_nothing_is_left(2);

    let ran = run("workflow", &[Refused, Refused], with(args, json!({ "vms": 2 }))).await;
    let error = ran.error();
    assert_eq!(error["tags"], json!(["NoReport", "VmRefused"]));
    assert_eq!(error["tried"].as_array().map(Vec::len), Some(2));
    assert!(
        error["message"].as_str().is_some_and(|why| why.contains("ZONE_RESOURCE_POOL_EXHAUSTED")),
        "{error}"
    );
    ran.assert_nothing_is_left(2);
}

#[tokio::test]
async fn a_vm_that_may_not_be_made_is_an_error_with_the_reason() {
    let args = json!({ "image": image() });
    let ran =
        run_in(|cloud| cloud.without_permission("compute.instances.create"), "workflow", &[], args).await;
    let message = ran.error()["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("compute.instances.create"), "{message}");
    let tries = ran.sandbox.requests().iter().filter(|line| is_order(line)).count();
    assert_eq!(tries, 1, "who may not make a VM now, may not a moment later");
    ran.assert_nothing_is_left(0);
}

#[tokio::test]
async fn a_vm_that_comes_after_all_does_not_run_beside_the_next_one() {
    let args = json!({ "image": image(), "command": "exit 0", "zones": ["a-b1-c", "a-b1-d"] });
    let ran = run("workflow", &[Late], args).await;
    let name = ran.result()["instance"]["name"].as_str().expect("a name").to_owned();
    assert!(name.ends_with("-2"), "{name}");
    let deleted = ran.sandbox.deleted_instances();
    assert!(deleted.len() == 2 && deleted[0].ends_with("-1"), "{deleted:?}");
    let requests = ran.sandbox.requests();
    let at = |wanted: &dyn Fn(&String) -> bool| requests.iter().rposition(wanted).expect("a request");
    assert!(at(&|line| line.starts_with("DELETE") && line.ends_with("-1")) < at(&|line| is_order(line)));
    ran.assert_nothing_is_left(2);
}

#[tokio::test]
async fn a_vm_whose_agent_never_starts_is_given_up() {
    let args = json!({ "image": image(), "startSeconds": 1, "timeoutSeconds": 60 });
    let ran = run("workflow", &[Mute], args).await;
    assert_eq!(ran.error()["tags"], json!(["NoReport", "VmSilent"]));
    ran.assert_nothing_is_left(1);
}

#[tokio::test]
async fn who_cannot_look_goes_on_waiting() {
    let command = json!({ "image": image(), "command": "pause 6000 exit 0" });
    let args = with(command, json!({ "startSeconds": 1, "checkEvery": 2, "timeoutSeconds": 60 }));
    for permission in ["compute.instances.get", "compute.instances.getGuestAttributes"] {
        let cloud = move |cloud: Builder| cloud.without_permission(permission);
        let ran = run_in(cloud, "workflow", &[], args.clone()).await;
        assert_eq!(ran.result()["reason"], "Completed");
        assert!(ran.execution.steps.iter().any(|step| step == "look"));
    }
}

#[tokio::test]
async fn a_vm_that_went_without_a_word_is_missed() {
    let args = json!({ "checkEvery": 2, "timeoutSeconds": 60 });
    let ran = run_until_spared(&[Lost], with(args.clone(), json!({ "spot": true }))).await;
    assert!(ran.result()["instance"]["name"].as_str().is_some_and(|name| name.ends_with("-2")));
    ran.assert_nothing_is_left(2);
}

#[tokio::test]
async fn a_vm_that_is_not_deleted_costs_no_report() {
    let args = json!({ "image": image(), "command": "exit 0" });
    let ran =
        run_in(|cloud| cloud.without_permission("compute.instances.delete"), "workflow", &[], args).await;
    assert_eq!(ran.result()["reason"], "Completed");
    let said = &ran.execution.logged[0]["message"];
    assert_eq!(said, "longrun: the VM could not be deleted; maxRunDuration will");
}

#[tokio::test]
async fn a_command_of_the_vms_own_runs() {
    let ran = run("workflow", &[], json!({ "hostCommand": "echo hello; exit 0" })).await;
    let report = ran.result();
    assert_eq!((&report["reason"], &report["logs"]["tail"]), (&json!("Completed"), &json!("hello\n")));
    ran.assert_nothing_is_left(1);
}

#[tokio::test]
async fn the_environment_comes_as_it_was_given() {
    let value = "it's \"x\" $HOME\n`y`";
    for command in [
        json!({ "image": image(), "command": "env A" }),
        json!({ "dockerCommand": format!("docker run --rm {} env A", image()) }),
        json!({ "hostCommand": "printf 'A=%s\\n' \"$A\"" }),
    ] {
        let ran = run("workflow", &[], with(command, json!({ "env": { "A": value } }))).await;
        assert_eq!(ran.result()["logs"]["tail"], format!("A={value}\n"));
    }
    let env = json!({ "B": 7, "C": true, "D": 1.5 });
    let args = json!({ "image": image(), "command": "want B 7 want C true want D 1.5 exit 0", "env": env });
    assert_eq!(run("workflow", &[], args).await.result()["reason"], "Completed");
}

#[tokio::test]
async fn arguments_that_cannot_be_meant_are_refused_before_anything_is_made() {
    let with_image = |more: Value| with(json!({ "image": "a" }), more);
    let attribute = |name: &str, value: Value| with_image(json!({ "attributes": { name: value } }));
    let rows = [
        (json!({ "iamge": "a" }), "the argument iamge is unknown"),
        (json!({}), "nothing to run"),
        (json!({ "image": "a", "dockerCommand": "docker run a" }), "more than one of"),
        (json!({ "image": "a", "hostCommand": "true" }), "more than one of"),
        (json!({ "dockerCommand": "docker run a", "command": "b" }), "command goes with image"),
        (json!({ "dockerCommand": "podman run a" }), "dockerCommand cannot be used"),
        (json!({ "dockerCommand": "docker runa" }), "dockerCommand cannot be used"),
        (json!({ "image": "-v/:/vm" }), "image cannot be used"),
        (json!({ "image": "" }), "image cannot be used"),
        (json!({ "image": 7 }), "image cannot be used"),
        (with_image(json!({ "zones": [] })), "zones is missing"),
        (with_image(json!({ "zones": "a" })), "zones is missing"),
        (with_image(json!({ "zones": [7] })), "zones cannot be used"),
        (with_image(json!({ "zones": ["zones/a"] })), "zones cannot be used"),
        (with_image(json!({ "agentImage": null })), "agentImage is missing"),
        (with_image(json!({ "agentImage": "--privileged" })), "agentImage cannot be used"),
        (with_image(json!({ "machineType": {} })), "machineType cannot be used"),
        (with_image(json!({ "command": ["a"] })), "command cannot be used"),
        (with_image(json!({ "spot": "true" })), "spot cannot be used"),
        (with_image(json!({ "externalIp": 0 })), "externalIp cannot be used"),
        (with_image(json!({ "timeoutSeconds": "90m" })), "timeoutSeconds cannot be used"),
        (with_image(json!({ "timeoutSeconds": 10_368_000 })), "120 days at most"),
        (with_image(json!({ "timeoutSeconds": 3_456_000, "checkEvery": 60 })), "expected 1505 at least"),
        (with_image(json!({ "vms": 0 })), "vms cannot be used"),
        (with_image(json!({ "startSeconds": 1.5 })), "startSeconds cannot be used"),
        (with_image(json!({ "onHostMaintenance": "STOP" })), "onHostMaintenance cannot be used"),
        (with_image(json!({ "env": ["A=1"] })), "env cannot be used"),
        (with_image(json!({ "env": { "A": [] } })), "the value of A cannot be used"),
        (with_image(json!({ "env": { "A-B": "" } })), "env has A-B"),
        (with_image(json!({ "labels": { "Team": "a" } })), "labels has Team"),
        (with_image(json!({ "labels": { "team": "A" } })), "the value of team does not look like"),
        (with_image(json!({ "labels": { "team": 1 } })), "the value of team cannot be used"),
        (attribute("longrun-timeout", "1h".into()), "longrun-timeout, which is the workflow's"),
        (attribute("longrun-callback-method", "GET".into()), "longrun-callback-method, which is"),
        (attribute("longrun-callback-auth", "none".into()), "longrun-callback-auth, which is"),
        (attribute("longrun-env-A", "1".into()), "longrun-env-A, which is"),
        (attribute("docker-command", "docker run b".into()), "attributes has docker-command"),
        (attribute("host-command", "true".into()), "attributes has host-command"),
        (attribute("startup-script", "true".into()), "attributes has startup-script"),
        (attribute("longrun-logs", json!(["a"])), "the value of longrun-logs cannot be used"),
        (attribute("longrun-max-attempts", "0".into()), "longrun-max-attempts cannot be used"),
        (attribute("longrun-max-attempts", 101.into()), "longrun-max-attempts cannot be used"),
        (attribute("longrun-stop-grace", "1h 30m".into()), "longrun-stop-grace cannot be used"),
    ];
    for (args, complaint) in rows {
        let ran = run("workflow", &[], args.clone()).await;
        let error = ran.error().to_string();
        assert!(error.contains("long-run") && error.contains(complaint), "{args}: {error}");
        ran.assert_nothing_is_left(0);
    }
    let task = json!({ "image": "a" });
    for (args, complaint) in [
        (json!({ "tasks": 1 }), "task is missing"),
        (json!({ "tasks": 10_001, "task": task }), "from 1 to 10000"),
        (json!({ "tasks": 1, "concurrency": 401, "task": task }), "from 1 to 400"),
        (json!({ "tasks": 1, "task": { "env": [] } }), "env of task cannot be used"),
        (json!({ "tasks": 1, "task": { "env": { "A": null } } }), "the value of A cannot be used"),
        (json!({ "tasks": 1, "task": task, "failOnError": 1 }), "failOnError cannot be used"),
    ] {
        let ran = run("fan-out", &[], args.clone()).await;
        let error = ran.error().to_string();
        assert!(error.contains("fan-out") && error.contains(complaint), "{args}: {error}");
    }
}

#[tokio::test]
async fn an_argument_larger_than_workflows_takes_is_refused() {
    let args = machine(json!({ "image": "a", "env": { "A": "x".repeat(32 << 10) } }));
    let sandbox = Sandbox::builder().boots(agent(), []).start().await.expect("a sandbox");
    let told = workflow::run(&sandbox, &deploy("workflow.yaml"), &args, |_| ()).await;
    let error = told.expect_err("it should be refused").to_string();
    assert!(error.contains("larger than the 32768 bytes"), "{error}");
}

#[tokio::test]
async fn what_is_sent_to_compute_engine_is_what_its_own_protos_read() {
    let mut orders = Vec::new();
    for args in [
        json!({}),
        json!({ "externalIp": false, "subnetwork": "regions/europe-west1/subnetworks/a" }),
        json!({ "spot": true, "labels": { "team": "a" }, "serviceAccount": "a@b.iam.gserviceaccount.com" }),
        json!({ "network": "global/networks/a", "diskSizeGb": 50, "machineType": "n2-standard-4",
                "attributes": { "longrun-max-attempts": "3", "longrun-logs": "cloud-logging" } }),
        json!({ "diskType": "hyperdisk-balanced", "onHostMaintenance": "TERMINATE", "attributes":
                { "longrun-max-attempts": 2, "longrun-on-reboot": "rerun", "longrun-stop-grace": "2m" } }),
    ] {
        let args = with(args, json!({ "image": "a", "vms": 1, "timeoutSeconds": 60 }));
        let ran = run("workflow", &[Refused], args).await;
        orders.extend(ran.sandbox.ordered_instances());
    }
    let python = tools::venv(&["google-cloud-compute==1.57.0"]).expect("Google's protos").join("bin/python");
    let mut judge = Command::new(python);
    judge.args(["-c", PROTOS]);
    let judged = fed(judge, &Value::from(orders.clone())).await;
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));

    let network = |order: &Value| order["networkInterfaces"][0].clone();
    assert_eq!(network(&orders[1]), json!({ "subnetwork": "regions/europe-west1/subnetworks/a" }));
    let nat = json!([{ "name": "External NAT", "type": "ONE_TO_ONE_NAT" }]);
    assert_eq!(network(&orders[0]), json!({ "network": "global/networks/default", "accessConfigs": nat }));
    for (order, model, restarts, longest) in [
        (0, "STANDARD", true, 4270),
        (2, "SPOT", false, 4270),
        (3, "STANDARD", true, 5610),
        (4, "STANDARD", true, 5940),
    ] {
        let scheduling = &orders[order]["scheduling"];
        assert_eq!(
            (&scheduling["provisioningModel"], &scheduling["automaticRestart"]),
            (&json!(model), &json!(restarts))
        );
        assert_eq!(scheduling["maxRunDuration"]["seconds"], longest);
        assert_eq!(scheduling["instanceTerminationAction"], "DELETE");
    }
    let maintained = |order: &Value| order["scheduling"]["onHostMaintenance"].clone();
    assert_eq!([0, 2, 4].map(|order| maintained(&orders[order])), ["MIGRATE", "TERMINATE", "TERMINATE"]);
    let disk = |order: &Value| order["disks"][0]["initializeParams"]["diskType"].clone();
    let types = ["pd-balanced", "hyperdisk-balanced"]
        .map(|name| json!(format!("zones/{}/diskTypes/{name}", sandbox::ZONE)));
    assert_eq!([0, 4].map(|order| disk(&orders[order])), types);
    assert_eq!(orders[2]["labels"], json!({ "team": "a", "longrun": "true" }));
    assert_eq!(attribute(&orders[3], "longrun-logs"), "cloud-logging");
    assert_eq!(attribute(&orders[0], "longrun-timeout"), "60s");
}

#[tokio::test]
async fn a_vm_boots_with_the_startup_script() {
    let ran = run("workflow", &[Refused], json!({ "image": "a", "vms": 1 })).await;
    let script = fs::read_to_string(deploy("startup-script.sh")).expect("the script");
    assert_eq!(attribute(&ran.sandbox.ordered_instances()[0], "startup-script"), script);
}

#[tokio::test]
async fn tasks_know_their_numbers_and_one_that_fails_stops_no_other() {
    let command =
        "env LONGRUN_TASK_INDEX want BATCH_TASK_COUNT 3 want LONGRUN_TASK_COUNT 3 want BATCH_TASK_INDEX";
    for (concurrency, index) in [(2, 1), (41, 0)] {
        let task = json!({ "image": image(), "command": format!("{command} {index} exit 0") });
        let args = json!({ "tasks": 3, "concurrency": concurrency, "task": machine(task) });
        let ran = run("fan-out", &[], args.clone()).await;
        let error = ran.error();
        assert_eq!(error["message"], "fan-out, 2 of 3 tasks failed");
        let summary = &error["summary"];
        assert_eq!((&summary["succeeded"], &summary["failed"]), (&json!(1), &json!(2)));
        let failed = summary["failedTasks"].as_array().expect("numbers");
        assert!(failed.iter().all(|task| *task != index), "{summary}");
        assert_eq!(summary["failures"][0]["reason"], "Error");
        ran.assert_nothing_is_left(3);
        let ran = run("fan-out", &[], with(args, json!({ "failOnError": false }))).await;
        assert_eq!(ran.result()["failed"], 2);
    }
}

#[tokio::test]
async fn a_thousand_tasks_that_fail_fit_into_an_executions_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(deploy("fan-out.yaml"), folder.path().join("fan-out.yaml")).expect("a copy");
    let words = "x".repeat(300);
    let stub = format!(
        "main:\n  params: [args]\n  steps:\n    - fail:\n        return: {{outcome: Failed, reason: Error, \
         exitCode: 1, message: {words}, runId: {words:.32}, vm: {words:.63}, zone: europe-west1-b}}\n"
    );
    fs::write(folder.path().join("workflow.yaml"), stub).expect("a file");
    for concurrency in [20, 400] {
        let args = json!({ "tasks": 1000, "concurrency": concurrency, "failOnError": false, "task": {} });
        let sandbox = Sandbox::builder().boots(agent(), []).start().await.expect("a sandbox");
        let told = workflow::run(&sandbox, &folder.path().join("fan-out.yaml"), &args, |_| ()).await;
        let told = told.expect("an execution");
        let summary = told.ended.expect("a summary");
        assert_eq!(summary["failed"], 1000);
        assert_eq!(summary["failures"].as_array().map(Vec::len), Some(100));
        assert!(told.largest < 256 << 10, "{} bytes of variables", told.largest);
    }
}

#[tokio::test]
async fn a_task_that_broke_is_told_without_its_arguments() {
    let task = json!({ "image": "a", "zones": [], "env": { "KEY": "hunter2" } });
    let args = json!({ "tasks": 1, "failOnError": false, "task": machine(task) });
    let ran = run("fan-out", &[], args.clone()).await;
    let summary = ran.result();
    let message = &summary["failures"][0]["message"];
    assert!(message.as_str().is_some_and(|why| why.contains("long-run: zones is missing")), "{summary}");
    assert!(!summary.to_string().contains("hunter2"), "{summary}");
}

#[tokio::test]
async fn a_part_that_broke_costs_no_other_parts_tasks() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = fs::read_to_string(deploy("fan-out.yaml")).expect("the workflow");
    let first = "          - condition: ${get_type(map.get(args, \"task\")) != \"map\"}\n";
    let broken = format!(
        "          - condition: ${{map.get(args, \"first\") == 2}}\n            raise: \"oh\"\n{first}"
    );
    assert!(good.contains(first));
    fs::write(folder.path().join("fan-out.yaml"), good.replace(first, &broken)).expect("a file");
    let stub = "main:\n  params: [args]\n  steps:\n    - well:\n        return: {outcome: Succeeded}\n";
    fs::write(folder.path().join("workflow.yaml"), stub).expect("a file");
    // So many at once, or so long, that they do not fit into one execution.
    let long = json!({ "timeoutSeconds": 40_000_000 });
    for (concurrency, task) in [(60, json!({})), (1, long)] {
        let args = json!({ "tasks": 5, "concurrency": concurrency, "failOnError": false, "task": task });
        let sandbox = Sandbox::builder().boots(agent(), []).start().await.expect("a sandbox");
        let told = workflow::run(&sandbox, &folder.path().join("fan-out.yaml"), &args, |_| ()).await;
        let summary = told.expect("an execution").ended.expect("a summary");
        assert_eq!((&summary["succeeded"], &summary["failedTasks"]), (&json!(3), &json!([2, 3])));
        assert_eq!(summary["failures"][0]["message"], "\"oh\"");
    }
}

#[tokio::test]
async fn the_workflows_hold_what_only_a_deployment_would_show() {
    let files = ["workflow.yaml", "fan-out.yaml"].map(deploy);
    let checked = check(&files).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let good = fs::read_to_string(&files[0]).expect("the workflow");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("workflow.yaml");
    for (part, bad, fault) in [
        ("${number + 1}", "${nubmer + 1}", "nubmer is never assigned"),
        ("          - silent: false\n", "", "silent is read before or outside of where it is assigned"),
        ("- tried: []", "- trying: []", "tried is read before or outside"),
        ("next: next_vm", "next: next_wm", "next_wm is no step"),
        ("instance: ${name}", "vm: ${name}", "compute.v1.instances.get takes"),
        ("instances.insert", "instances.inzert", "instances.inzert is not there"),
        ("- find_boot_image:", "- settings:", "two steps are called settings"),
        ("bootImage: ${bootImage.selfLink}", "bootimage: a", "describe_vm takes"),
        ("call: events.await_callback", "call: events.await", "events.await is not there"),
        ("${number + 1}", &format!("${{number + {}}}", "1".repeat(400)), "an expression has"),
        ("${number + 1}", "${number + }", "invalid syntax"),
        ("timeout: 900", "longest: 900", "connector_params has no ['longest']"),
    ] {
        assert!(good.contains(part), "{part}");
        fs::write(&file, good.replacen(part, bad, 1)).expect("a file");
        let checked = check(std::slice::from_ref(&file)).await;
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(!checked.status.success() && said.contains(fault), "{bad}: {said}");
    }
}

/// A workflow that ran.
struct Ran {
    sandbox: Sandbox,
    execution: Execution,
}

impl Ran {
    #[track_caller]
    fn result(&self) -> &Value {
        self.execution.ended.as_ref().unwrap_or_else(|error| panic!("it failed: {error:#}"))
    }

    #[track_caller]
    fn error(&self) -> &Value {
        self.execution.ended.as_ref().expect_err("it should have failed")
    }

    /// So many VMs were ordered, and none is there any more.
    #[track_caller]
    fn assert_nothing_is_left(&self, ordered: usize) {
        assert_eq!(self.sandbox.ordered_instances().len(), ordered);
        assert_eq!(self.sandbox.instances(), [""; 0]);
        assert_eq!(self.sandbox.complaints(), [""; 0]);
    }
}

async fn run(name: &str, fates: &[Fate], args: Value) -> Ran {
    run_in(|cloud| cloud, name, fates, args).await
}

async fn run_in(cloud: impl FnOnce(Builder) -> Builder, name: &str, fates: &[Fate], args: Value) -> Ran {
    let args = if name == "workflow" { machine(args) } else { args };
    let sandbox = cloud(Sandbox::builder().boots(agent(), fates.to_vec())).start().await.expect("a sandbox");
    let file = deploy(&format!("{name}.yaml"));
    let execution = workflow::run(&sandbox, &file, &args, |_| ()).await.expect("an execution");
    Ran { sandbox, execution }
}

/// Runs a job that goes on until the VMs are through that something happens to.
async fn run_until_spared(fates: &[Fate], args: Value) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let command =
        format!("docker run --rm -v {}:/folder {} await /folder/go", folder.path().display(), image());
    let args = machine(with(args, json!({ "dockerCommand": command })));
    let all = fates.iter().copied().chain([Spared]);
    let sandbox = Sandbox::builder().boots(agent(), all).start().await.expect("a sandbox");
    let mut left = fates.len();
    let watch = |news: News<'_>| {
        if matches!(news, News::Step("say_so")) {
            left -= 1;
            if left == 0 {
                fs::write(&go, "").expect("a file");
            }
        }
    };
    let execution = workflow::run(&sandbox, &deploy("workflow.yaml"), &args, watch).await;
    Ran { sandbox, execution: execution.expect("an execution") }
}

/// The arguments with what every VM needs, where they do not say it; null says that it is not there.
fn machine(args: Value) -> Value {
    let usual = json!({ "agentImage": "longrun-agent", "zones": [sandbox::ZONE] });
    let mut args = with(usual, args);
    args.as_object_mut().expect("a map").retain(|_, value| !value.is_null());
    args
}

fn with(mut args: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no map") };
    args.as_object_mut().expect("a map").extend(more);
    args
}

fn attribute<'a>(order: &'a Value, key: &str) -> &'a str {
    let items = order["metadata"]["items"].as_array().expect("items");
    let item = items.iter().find(|item| item["key"] == key).unwrap_or_else(|| panic!("no {key}"));
    item["value"].as_str().expect("text")
}

async fn check(files: &[PathBuf]) -> Output {
    let python = workflow::python().await.expect("the emulator");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/check.py");
    Command::new(python).arg(script).args(files).output().await.expect("it runs")
}

fn is_order(line: &str) -> bool {
    line.starts_with("POST") && line.contains("/instances")
}

async fn fed(mut command: Command, input: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), input.to_string()).expect("a file");
    command.stdin(file.reopen().expect("a file")).output().await.expect("it runs")
}

fn agent() -> Vec<std::ffi::OsString> {
    agent_within(env!("CARGO_BIN_EXE_sandbox").into())
}

fn image() -> String {
    job::image().expect("the job's image")
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}
