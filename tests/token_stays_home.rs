//! Promise 3, "The token stays home", as far as getting one goes: who gets it is in `delivery.rs`, `pulls.rs`
//! and the table of `agent/google/credential.rs`.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gcp_auth::TokenProvider;
use longrun_agent::google::{Metadata, Tokens};
use machinery::{Callback, GIVEN, Given, run};
use sandbox::Sandbox;
use serde_json::Value;

#[tokio::test]
async fn however_many_ask_at_once_one_request_is_made() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let tokens = tokens(&sandbox);
    let all =
        async { tokio::join!(tokens.token(&[]), tokens.token(&[]), tokens.token(&[]), tokens.token(&[])) };
    let (first, second, ..) = all.await;
    assert_eq!(first.unwrap().as_str(), second.unwrap().as_str());
    assert_eq!(asked(&sandbox), 1);
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let tokens = tokens(&sandbox);
    let first = tokens.token(&[]).await.unwrap();
    let nearly_all = Duration::from_secs(3600 - 200);
    sandbox.age_token(nearly_all);
    pass(nearly_all).await;
    assert_ne!(tokens.token(&[]).await.unwrap().as_str(), first.as_str());
    assert_eq!(asked(&sandbox), 2);
}

#[tokio::test]
async fn while_the_metadata_server_is_away_the_old_token_is_used_for_as_long_as_it_lives() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let tokens = tokens(&sandbox);
    let first = tokens.token(&[]).await.unwrap();
    drop(sandbox);
    pass(Duration::from_secs(3600 - 200)).await;
    // Its patience with the metadata server passes in no time too.
    tokio::time::pause();
    assert_eq!(tokens.token(&[]).await.unwrap().as_str(), first.as_str());
    tokio::time::advance(Duration::from_secs(200)).await;
    assert!(tokens.token(&[]).await.is_err());
}

#[tokio::test]
async fn a_token_that_was_refused_is_asked_for_again() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let tokens = tokens(&sandbox);
    let first = tokens.token(&[]).await.unwrap();
    sandbox.expire_token();
    assert_eq!(tokens.token(&[]).await.unwrap().as_str(), first.as_str());
    tokens.drop_refused().await;
    assert_ne!(tokens.token(&[]).await.unwrap().as_str(), first.as_str());
}

#[tokio::test]
async fn a_token_is_never_shown_by_debug_or_by_an_error() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let token = tokens(&sandbox).token(&[]).await.unwrap();
    assert!(!format!("{token:?}").contains(token.as_str()));

    let without = Sandbox::builder().without_service_account().start().await.unwrap();
    let error = tokens(&without).token(&[]).await.unwrap_err();
    assert!(error.to_string().contains("this VM has no service account"), "{error}");
}

#[tokio::test]
async fn a_callback_that_is_not_googles_causes_no_request_to_google_and_asks_for_no_token() {
    let environment = [("LONGRUN_ORPHAN_CHECK", "10ms")];
    let attributes = [("longrun-preflight", "require")];
    let command = "docker run IMAGE pause 300";
    let callback = Callback::Plain;
    let given = Given { command, environment: &environment, attributes: &attributes, callback, ..GIVEN };
    let ended = run(given).await;
    assert_eq!(ended.report()["reason"], "Completed");
    let requests = ended.sandbox.requests();
    let strange = |line: &&String| line.contains("googleapis.com") || line.contains("/token");
    assert_eq!(requests.iter().find(strange), None);
}

#[tokio::test]
async fn an_identity_token_is_for_its_audience() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let token = tokens(&sandbox).identity("https://service-uc.a.run.app/?a=1&b").await.unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["aud"], "https://service-uc.a.run.app/?a=1&b");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

fn tokens(sandbox: &Sandbox) -> Tokens {
    Tokens::of_vm(Metadata::new(format!("http://{}", sandbox.address()).parse().unwrap()))
}

fn asked(sandbox: &Sandbox) -> usize {
    sandbox.requests().iter().filter(|request| request.contains("/token")).count()
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
