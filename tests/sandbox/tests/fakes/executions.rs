use sandbox::{Answer, Builder, Sandbox};
use serde_json::{Value, json};

use crate::client::{self, Ask, token};

#[tokio::test]
async fn a_workflow_that_awaits_takes_every_report_with_an_empty_answer() {
    let sandbox = start(Sandbox::builder()).await;
    for run in [1, 2] {
        let answer = report(&sandbox, &json!({ "run": run }).to_string()).await;
        assert_eq!((answer.status(), answer.text()), (200, ""));
    }
    assert_eq!(sandbox.reports(), [json!({ "run": 1 }), json!({ "run": 2 })]);
    assert_eq!(read(&sandbox, "/callbacks").await["callbacks"][0]["waiters"], "1");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_full_slot_refuses_until_the_workflow_awaits() {
    let sandbox = start(Sandbox::builder().unawaited_callback()).await;
    assert_eq!(sandbox.consume_callback(), None);
    assert_eq!(report(&sandbox, r#"{"run":1}"#).await.status(), 200);
    let refused = report(&sandbox, r#"{"run":2}"#).await;
    assert_eq!((refused.status(), &refused.json()["error"]["status"]), (429, &"RESOURCE_EXHAUSTED".into()));

    let url = sandbox.callback_url();
    let (_, name) = url.split_once("/v1/").expect("a callback");
    let endpoint =
        json!({ "name": name, "method": "POST", "availablePayloads": [r#"{"run":1}"#], "waiters": "0" });
    assert_eq!(read(&sandbox, "/callbacks").await, json!({ "callbacks": [endpoint] }));

    assert_eq!(sandbox.consume_callback(), Some(json!({ "run": 1 })));
    assert_eq!(report(&sandbox, r#"{"run":3}"#).await.status(), 200);
    assert_eq!(sandbox.consume_callback(), Some(json!({ "run": 3 })));
    assert_eq!(sandbox.reports(), [json!({ "run": 1 }), json!({ "run": 3 })]);
}

#[tokio::test]
async fn an_execution_that_is_over_has_no_callback() {
    type End = fn(&Sandbox);
    for (end, state) in
        [(Sandbox::end_execution as End, "SUCCEEDED"), (Sandbox::cancel_execution, "CANCELLED")]
    {
        let sandbox = start(Sandbox::builder()).await;
        assert_eq!(read(&sandbox, "").await["state"], "ACTIVE");
        end(&sandbox);
        assert_eq!(read(&sandbox, "").await["state"], state);
        assert_eq!(read(&sandbox, "/callbacks").await, json!({}));
        let refused = report(&sandbox, "{}").await;
        assert_eq!((refused.status(), &refused.json()["error"]["status"]), (404, &"NOT_FOUND".into()));
        assert_eq!(sandbox.reports(), [Value::Null; 0]);
    }
}

#[tokio::test]
async fn an_execution_that_was_forgotten_is_not_found() {
    let sandbox = start(Sandbox::builder()).await;
    sandbox.forget_execution();
    for below in ["", "/callbacks"] {
        assert_eq!(read(&sandbox, below).await["error"]["status"], "NOT_FOUND");
    }
    assert_eq!(report(&sandbox, "{}").await.status(), 404);
}

#[tokio::test]
async fn each_thing_needs_its_permission() {
    for (permission, statuses) in [
        ("workflows.executions.get", [403, 200, 200]),
        ("workflows.callbacks.list", [200, 403, 200]),
        ("workflows.callbacks.send", [200, 200, 403]),
    ] {
        let sandbox = start(Sandbox::builder().without_permission(permission)).await;
        let (url, token) = (sandbox.callback_url(), token(&sandbox).await);
        let (execution, _) = url.split_once("/callbacks/").expect("a callback");
        let asks =
            [("GET", execution.to_owned()), ("GET", format!("{execution}/callbacks")), ("POST", url.clone())];
        for ((method, url), status) in asks.into_iter().zip(statuses) {
            let answer = Ask::google(method, &url).bearer(&token).answer(&sandbox).await;
            assert_eq!(answer.status(), status, "{permission}: {answer:?}");
            assert!(status == 200 || answer.text().contains(permission), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn reads_are_answered_as_written_down_and_a_view_that_there_is_not_is_refused() {
    let sandbox = start(Sandbox::builder().execution_answers([Answer::page(), 503.into()])).await;
    let (url, token) = (sandbox.callback_url(), token(&sandbox).await);
    let (execution, _) = url.split_once("/callbacks/").expect("a callback");
    let ask = async |query: &str| {
        Ask::google("GET", &format!("{execution}{query}")).bearer(&token).answer(&sandbox).await
    };
    let page = ask("").await;
    assert_eq!((page.status(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(
        [ask("").await.status(), ask("").await.status(), ask("?view=ALL").await.status()],
        [503, 200, 400]
    );
}

#[tokio::test]
async fn a_call_that_is_not_the_expected_one_is_refused() {
    let sandbox = start(Sandbox::builder().callback_method("PUT")).await;
    let (url, token) = (sandbox.callback_url(), token(&sandbox).await);
    let other = Sandbox::builder().start().await.expect("a sandbox").callback_url();
    let large = " ".repeat(2 * 1024 * 1024 + 1);
    for (ask, status) in [
        (Ask::google("PUT", &url), 401),
        (Ask::google("PUT", &other).bearer(&token), 404),
        (Ask::google("PUT", &format!("{url}x")).bearer(&token), 404),
        (Ask::google("POST", &url).bearer(&token), 405),
        (Ask::google("PUT", &url).bearer(&token).body(large), 413),
        (Ask::google("PUT", &url).bearer(&token), 200),
    ] {
        let answer = ask.answer(&sandbox).await;
        assert_eq!(answer.status(), status, "{answer:?}");
    }
    let statuses: Vec<_> = sandbox.calls().iter().filter_map(|call| call.status).collect();
    assert_eq!(statuses, [401, 404, 404, 405, 413, 200]);
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_report_too_large_for_a_workflow_is_accepted_and_kills_it() {
    let sandbox = start(Sandbox::builder()).await;
    assert_eq!(report(&sandbox, &" ".repeat(512 * 1024 + 1)).await.status(), 200);
    assert_eq!(read(&sandbox, "").await["state"], "FAILED");
    assert_eq!(report(&sandbox, "{}").await.status(), 404);
    assert_eq!(sandbox.complaints(), ["a report of 524289 bytes killed the execution"]);
}

#[tokio::test]
async fn what_no_service_answers_is_noted() {
    let sandbox = start(Sandbox::builder()).await;
    let (url, token) = (sandbox.callback_url(), token(&sandbox).await);
    let (execution, _) = url.split_once("/callbacks/").expect("a callback");
    for (method, url) in [
        ("GET", "https://translate.googleapis.com/v3/projects/p".to_owned()),
        ("POST", format!("{execution}:cancel")),
        ("DELETE", execution.to_owned()),
        ("GET", format!("{url}/deeper")),
    ] {
        let noted = sandbox.complaints().len();
        let answer = Ask::google(method, &url).bearer(&token).answer(&sandbox).await;
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (404, &404.into()), "{method} {url}");
        assert_eq!(sandbox.complaints()[noted..], [format!("nothing answers {method} {}", &url[8..])]);
    }
}

async fn start(builder: Builder) -> Sandbox {
    builder.start().await.expect("a sandbox")
}

/// Sends a report as the agent would.
async fn report(sandbox: &Sandbox, body: &str) -> client::Answer {
    let ask = Ask::google("POST", &sandbox.callback_url()).bearer(&token(sandbox).await);
    ask.body(body.to_owned()).answer(sandbox).await
}

/// What the service says of the execution, or of what is below it.
async fn read(sandbox: &Sandbox, below: &str) -> Value {
    let url = sandbox.callback_url();
    let (execution, _) = url.split_once("/callbacks/").expect("a callback");
    let ask = Ask::google("GET", &format!("{execution}{below}")).bearer(&token(sandbox).await);
    ask.answer(sandbox).await.json()
}
