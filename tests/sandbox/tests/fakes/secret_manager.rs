use sandbox::{Answer, Sandbox};

use crate::client::{Ask, token};

const KEY: &str =
    "https://secretmanager.googleapis.com/v1/projects/longrun-sandbox/secrets/key/versions/latest";

#[tokio::test]
async fn a_secret_is_for_who_has_a_token() {
    let sandbox = Sandbox::builder().secret("key", "hunter2").start().await.expect("a sandbox");
    let ask = || Ask::google("GET", &format!("{KEY}:access"));
    assert_eq!(ask().answer(&sandbox).await.status(), 401);
    let answer = ask().bearer(&token(&sandbox).await).answer(&sandbox).await;
    assert_eq!(answer.json()["payload"]["data"], "aHVudGVyMg==");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn readings_are_answered_from_a_script_first() {
    let answers = [503.into(), Answer::page()];
    let sandbox = Sandbox::builder().secret_answers(answers).start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    let ask = || Ask::google("GET", &format!("{KEY}:access")).bearer(&token);
    let unavailable = ask().answer(&sandbox).await;
    assert_eq!((unavailable.status(), &unavailable.json()["error"]["status"]), (503, &"UNAVAILABLE".into()));
    let page = ask().answer(&sandbox).await;
    assert_eq!((page.status(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text().starts_with("<!DOCTYPE html>"));
    assert_eq!(ask().answer(&sandbox).await.status(), 404);
}

#[tokio::test]
async fn whatever_else_is_done_with_secrets_is_noted() {
    let sandbox = Sandbox::builder().secret("key", "hunter2").start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    for (method, url) in [("GET", KEY.to_owned()), ("POST", format!("{KEY}:access"))] {
        assert_eq!(Ask::google(method, &url).bearer(&token).answer(&sandbox).await.status(), 404);
    }
    assert_eq!(sandbox.complaints().len(), 2);
}
