use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sandbox::{INSTANCE, SERVICE_ACCOUNT, Sandbox};
use serde_json::Value;

use crate::client::{Answer, Ask, token};

#[tokio::test]
async fn a_token_lives_an_hour_and_is_renewed_five_minutes_before_its_end() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let path = "instance/service-accounts/default/token";
    let answer = Ask::metadata(path).answer(&sandbox).await;
    assert_eq!(answer.header("content-type"), "application/json");
    let first = answer.json();
    assert_eq!(first["token_type"], "Bearer");
    assert!((3590..=3599).contains(&first["expires_in"].as_u64().expect("seconds")), "{first}");

    sandbox.age_token(Duration::from_secs(3280));
    let later = Ask::metadata(&path.replace("default", SERVICE_ACCOUNT)).answer(&sandbox).await.json();
    assert_eq!(later["access_token"], first["access_token"]);
    assert!((300..=319).contains(&later["expires_in"].as_u64().expect("seconds")), "{later}");

    sandbox.age_token(Duration::from_secs(20));
    assert_ne!(token(&sandbox).await, first["access_token"]);
    let old = first["access_token"].as_str().expect("a token");
    assert_eq!(read_execution(&sandbox, Some(old)).await.status(), 200, "good until its own end");
}

#[tokio::test]
async fn a_service_takes_no_token_but_a_good_one() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let first = token(&sandbox).await;
    assert_eq!(read_execution(&sandbox, Some(&first)).await.status(), 200);
    for bad in [None, Some("ya29.of-somebody-else"), Some("")] {
        let refused = read_execution(&sandbox, bad).await;
        assert_eq!((refused.status(), &refused.json()["error"]["status"]), (401, &"UNAUTHENTICATED".into()));
        assert_eq!(refused.header("www-authenticate"), r#"Bearer realm="https://accounts.google.com/""#);
    }

    sandbox.expire_token();
    assert_eq!(read_execution(&sandbox, Some(&first)).await.status(), 401);
    let second = token(&sandbox).await;
    assert_eq!(read_execution(&sandbox, Some(&second)).await.status(), 200);

    sandbox.revoke_token();
    assert_eq!(read_execution(&sandbox, Some(&second)).await.status(), 401);
    assert_eq!(token(&sandbox).await, second, "the metadata server does not know");
    sandbox.expire_token();
    assert_eq!(read_execution(&sandbox, Some(&token(&sandbox).await)).await.status(), 200);
}

#[tokio::test]
async fn a_token_without_the_scope_is_forbidden() {
    let scope = "https://www.googleapis.com/auth/devstorage.read_only";
    let sandbox = Sandbox::builder().scopes(&[scope]).start().await.expect("a sandbox");
    let scopes = Ask::metadata("instance/service-accounts/default/scopes").answer(&sandbox).await;
    assert_eq!(scopes.text(), scope);
    let refused = read_execution(&sandbox, Some(&token(&sandbox).await)).await;
    assert_eq!((refused.status(), &refused.json()["error"]["status"]), (403, &"PERMISSION_DENIED".into()));
}

#[tokio::test]
async fn an_identity_token_is_for_its_audience_and_tells_of_the_vm_only_in_full() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let path = "instance/service-accounts/default/identity?audience=https%3A%2F%2Fexample.com%2F";
    let standard = claims(&Ask::metadata(path).answer(&sandbox).await);
    assert_eq!(standard["aud"], "https://example.com/");
    assert_eq!(standard["iss"], "https://accounts.google.com");
    assert_eq!(standard["exp"].as_u64(), standard["iat"].as_u64().map(|iat| iat + 3600));
    assert_eq!(standard.get("email"), None);

    let full = claims(&Ask::metadata(&format!("{path}&format=full")).answer(&sandbox).await);
    assert_eq!(full["email"], SERVICE_ACCOUNT);
    assert_eq!(full["google"]["compute_engine"]["instance_name"], INSTANCE);
}

#[tokio::test]
async fn a_token_that_leaves_home_is_noted() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    let (google, plain) = (sandbox.callback_url(), sandbox.plain_callback_url());
    let plain = plain.strip_prefix(&format!("http://{}", sandbox.address())).expect("it is here").to_owned();
    let line = google.strip_prefix("https://").expect("https").to_owned();
    for (ask, complaint) in [
        (
            Ask::google("POST", &google).body(format!("my token is {token}")),
            format!("the access token stands in the body of POST {line}"),
        ),
        (
            Ask::google("POST", &google).header("X-Debug", &token),
            format!("the access token stands in a header of POST {line}"),
        ),
        (
            Ask::new("POST", &format!("{plain}?access_token={token}")),
            "the access token stands in the address of a POST".to_owned(),
        ),
        (
            Ask::new("POST", &plain).bearer(&token),
            format!("the access token stands in a header of POST {plain}"),
        ),
        (
            Ask::google("POST", "https://example.com/").bearer(&token),
            "the access token stands in a header of POST example.com/".to_owned(),
        ),
    ] {
        ask.answer(&sandbox).await;
        let complaints = sandbox.complaints();
        assert!(complaints.contains(&complaint), "{complaint:?} is not in {complaints:?}");
    }
}

/// Asks for the execution with that token.
async fn read_execution(sandbox: &Sandbox, token: Option<&str>) -> Answer {
    let url = sandbox.callback_url();
    let (execution, _) = url.split_once("/callbacks/").expect("a callback");
    let ask = Ask::google("GET", execution);
    token.map_or_else(|| Ask::google("GET", execution), |token| ask.bearer(token)).answer(sandbox).await
}

/// The claims of a JWT.
fn claims(answer: &Answer) -> Value {
    assert_eq!(answer.status(), 200);
    let parts: Vec<_> = answer.text().split('.').collect();
    let [header, claims, _signature] = parts[..] else { panic!("{} is no JWT", answer.text()) };
    let decoded = |part| -> Value {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
    };
    assert_eq!(decoded(header)["typ"], "JWT");
    decoded(claims)
}
