//! Google's own protos as judges of what the fakes of its services answer: they refuse fields, enums and types that
//! the real services do not have.

use std::io::Write;
use std::process::{Command, Stdio};

use sandbox::{INSTANCE, PROJECT, Sandbox, ZONE, tools};
use serde_json::{Value, json};

use crate::client::{Ask, token};

const PACKAGES: [&str; 2] = ["google-cloud-workflows==1.24.0", "google-cloud-compute==1.56.0"];

/// Reads pairs of a type's name and an answer, and prints what the type makes of each.
const SCRIPT: &str = r#"
import json, sys
from google.cloud.compute_v1.types import Operation
from google.cloud.workflows.executions_v1.types import Execution

def execution(answer):
    read = Execution.from_json(answer)
    return [read.name, read.state.name, read.start_time is not None, read.end_time is not None]

def operation(answer):
    read = Operation.from_json(answer)
    return [read.name, read.status.name, read.operation_type, read.target_link, read.target_id]

types = {"Execution": execution, "Operation": operation}
print(json.dumps([types[name](json.dumps(answer)) for name, answer in json.load(sys.stdin)]))
"#;

#[tokio::test]
async fn an_execution_is_one_in_every_state_and_view() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let url = sandbox.callback_url();
    let (execution, _) = url.split_once("/callbacks/").expect("a callback");
    let (_, name) = execution.split_once("/v1/").expect("an address");
    let mut answers = Vec::new();
    for end in [|_: &Sandbox| (), Sandbox::end_execution, Sandbox::cancel_execution] {
        end(&sandbox);
        for view in ["", "?view=BASIC", "?view=FULL"] {
            answers.push(("Execution", get(&sandbox, "GET", &format!("{execution}{view}")).await));
        }
    }
    assert!(answers[0].1["argument"].is_string() && answers[1].1["argument"].is_null());
    let states = ["ACTIVE", "SUCCEEDED", "CANCELLED"];
    let expected: Vec<_> =
        states.iter().flat_map(|state| vec![json!([name, state, true, *state != "ACTIVE"]); 3]).collect();
    assert_eq!(judged(&answers), expected);
}

#[tokio::test]
async fn the_answer_to_a_deletion_is_an_operation() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let instance = format!("projects/{PROJECT}/zones/{ZONE}/instances/{INSTANCE}");
    let url = format!("https://compute.googleapis.com/compute/v1/{instance}");
    let answer = get(&sandbox, "DELETE", &url).await;
    let read = &judged(&[("Operation", answer.clone())])[0];
    let target = format!("https://www.googleapis.com/compute/v1/{instance}");
    assert_eq!((&read[0], &read[1]), (&answer["name"], &"RUNNING".into()));
    assert_eq!((&read[2], &read[3]), (&"delete".into(), &target.into()));
}

#[test]
fn what_google_does_not_have_is_refused() {
    for answer in [json!({ "state": "PAUSED" }), json!({ "status": "ACTIVE" }), json!({ "steps": 1 })] {
        assert!(judge(&[("Execution", answer.clone())]).is_err(), "{answer}");
    }
}

async fn get(sandbox: &Sandbox, method: &str, url: &str) -> Value {
    let answer = Ask::google(method, url).bearer(&token(sandbox).await).answer(sandbox).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.json()
}

fn judged(answers: &[(&str, Value)]) -> Vec<Value> {
    serde_json::from_str(&judge(answers).unwrap_or_else(|error| panic!("{error}"))).expect("JSON")
}

/// What Google's types make of the answers, or what they have against them.
fn judge(answers: &[(&str, Value)]) -> Result<String, String> {
    let python = tools::venv(&PACKAGES).expect("Google's protos").join("bin/python");
    let mut python = Command::new(python);
    python.args(["-c", SCRIPT]).env_clear();
    let mut child =
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("python");
    let answers = serde_json::to_vec(answers).expect("JSON");
    child.stdin.take().expect("a pipe").write_all(&answers).expect("python reads");
    let output = child.wait_with_output().expect("python ends");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("text")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
