use std::time::{Duration, SystemTime};

use sandbox::{Builder, Sandbox};
use serde_json::{Value, json};

use crate::client::{Answer, Ask, token};

#[tokio::test]
async fn of_entries_with_one_time_and_id_a_reader_sees_one() {
    let sandbox = start(Sandbox::builder()).await;
    let entries = [entry("b", "2"), entry("a", "1"), entry("again", "1")];
    for _ in 0..2 {
        let answer = write(&sandbox, &request(&entries)).await;
        assert_eq!((answer.status(), answer.json()), (200, json!({})));
    }
    let seen = sandbox.log_entries();
    let texts: Vec<_> = seen.iter().map(|entry| &entry["textPayload"]).collect();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(seen[0]["labels"], json!({ "run": "r" }), "what the request says for all");
    assert_eq!(sandbox.log_requests().len(), 2);
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn an_entry_that_cannot_be_taken_is_refused_for_itself_where_the_request_says_so() {
    let sandbox = start(Sandbox::builder().refuses_entries_with("bad")).await;
    let large = entry(&"x".repeat(256 * 1024 + 1), "large");
    let mut old = entry("old", "old");
    old["timestamp"] = "1999-01-01T00:00:00Z".into();
    let mut both = entry("both", "both");
    both["jsonPayload"] = json!({});
    let entries = [entry("good", "good"), large, old, both, entry("bad", "bad")];

    let answer = write(&sandbox, &request(&entries)).await;
    let error = &answer.json()["error"];
    assert_eq!((answer.status(), &error["status"]), (400, &json!("INVALID_ARGUMENT")));
    let refused = error["details"][0]["logEntryErrors"].as_object().expect("errors by index");
    assert_eq!(refused.keys().collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert_eq!(sandbox.log_entries().len(), 1);

    let mut whole = request(&entries);
    whole["partialSuccess"] = false.into();
    whole["entries"][0]["insertId"] = "other".into();
    let answer = write(&sandbox, &whole).await;
    assert_eq!((answer.status(), answer.json()["error"].get("details")), (400, None));
    assert_eq!(sandbox.log_entries().len(), 1);
}

#[tokio::test]
async fn a_request_without_a_token_or_without_json_is_refused() {
    let sandbox = start(Sandbox::builder()).await;
    let body = request(&[entry("a", "1")]).to_string();
    assert_eq!(ask().body(body).answer(&sandbox).await.status(), 401);
    let token = token(&sandbox).await;
    for body in ["", "{", "{}"] {
        assert_eq!(ask().bearer(&token).body(body).answer(&sandbox).await.status(), 400, "{body}");
    }
    assert_eq!(sandbox.log_entries().len(), 0);
}

#[tokio::test]
async fn an_account_without_the_role_is_refused_as_the_service_does() {
    let sandbox = start(Sandbox::builder().logging_answers([403])).await;
    let answer = write(&sandbox, &request(&[entry("a", "1")])).await;
    let reason = answer.json()["error"]["details"][0]["reason"].clone();
    assert_eq!((answer.status(), reason), (403, json!("IAM_PERMISSION_DENIED")));
    assert_eq!(write(&sandbox, &request(&[entry("a", "1")])).await.status(), 200);
}

async fn start(builder: Builder) -> Sandbox {
    builder.start().await.expect("a sandbox")
}

fn ask() -> Ask {
    Ask::google("POST", "https://logging.googleapis.com/v2/entries:write")
}

async fn write(sandbox: &Sandbox, request: &Value) -> Answer {
    ask().bearer(&token(sandbox).await).body(request.to_string()).answer(sandbox).await
}

fn request(entries: &[Value]) -> Value {
    json!({
        "logName": format!("projects/{}/logs/longrun", sandbox::PROJECT),
        "resource": { "type": "gce_instance" },
        "labels": { "run": "r" },
        "partialSuccess": true,
        "entries": entries,
    })
}

/// An entry of the hour.
fn entry(text: &str, id: &str) -> Value {
    let hour = Duration::from_secs(3600);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that is set");
    let time = SystemTime::UNIX_EPOCH + hour * u32::try_from(since.as_secs() / 3600).expect("a few hours");
    json!({ "textPayload": text, "insertId": id, "timestamp": humantime::format_rfc3339(time).to_string() })
}
