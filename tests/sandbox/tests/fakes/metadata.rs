use std::time::Duration;

use sandbox::{Answer, INSTANCE_ID, PROJECT, SERVICE_ACCOUNT, Sandbox};
use serde_json::json;
use tokio::time::timeout;

use crate::client::Ask;

#[tokio::test]
async fn a_value_is_answered_as_google_writes_it() {
    let sandbox = Sandbox::builder()
        .attribute("docker-command", "docker run alpine")
        .attribute("startup-script", "a\nb")
        .start()
        .await
        .expect("a sandbox");
    let of_project = format!("numeric-project-id 421337000421\nproject-id {PROJECT}\n");
    let accounts = format!("default/\n{SERVICE_ACCOUNT}/\n");
    let (text, json) = ("application/text", "application/json");
    for (path, content_type, body) in [
        ("instance/attributes/docker-command", text, "docker run alpine"),
        ("instance/attributes/docker-command?recursive=true", text, "docker run alpine"),
        ("instance/attributes/startup-script", text, "a\nb"),
        ("instance/attributes/startup-script?alt=json", json, r#""a\nb""#),
        ("instance/id", text, "7723260132568912421"),
        ("instance/zone", text, "projects/421337000421/zones/europe-west1-b"),
        ("instance/machine-type", text, "projects/421337000421/machineTypes/e2-small"),
        ("instance/preempted", text, "FALSE"),
        ("instance/maintenance-event", text, "NONE"),
        ("instance/tags", json, r#"["longrun"]"#),
        ("instance/tags?alt=text", text, "longrun"),
        ("instance/service-accounts/default/email", text, SERVICE_ACCOUNT),
        ("instance/service-accounts/default/scopes", text, "https://www.googleapis.com/auth/cloud-platform"),
        ("project/project-id", text, PROJECT),
        ("project/numeric-project-id", text, "421337000421"),
        ("universe/universe-domain", text, "googleapis.com"),
        ("", text, "instance/\nproject/\nuniverse/\n"),
        ("instance/attributes/", text, "docker-command\nstartup-script\n"),
        ("instance/attributes/?alt=json", text, "docker-command\nstartup-script\n"),
        (
            "instance/attributes/?recursive=true",
            json,
            r#"{"docker-command":"docker run alpine","startup-script":"a\nb"}"#,
        ),
        ("instance/service-accounts/", text, &accounts),
        ("instance/service-accounts/default/", text, "aliases\nemail\nidentity\nscopes\ntoken\n"),
        ("project/?recursive=true&alt=text", text, &of_project),
    ] {
        let answer = Ask::metadata(path).answer(&sandbox).await;
        let got = (answer.status(), answer.header("content-type"), answer.text());
        assert_eq!(got, (200, content_type, body), "{path}");
        assert_eq!(answer.header("metadata-flavor"), "Google", "{path}");
        assert_eq!(answer.header("server"), "Metadata Server for VM", "{path}");
        assert_eq!(answer.header("etag").len(), 16, "{path}");
    }
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn everything_at_once_has_googles_names_and_no_token() {
    let sandbox = Sandbox::builder()
        .attribute("callback-url", "https://example.com/")
        .start()
        .await
        .expect("a sandbox");
    let everything = Ask::metadata("?recursive=true").answer(&sandbox).await.json();
    assert_eq!(everything["instance"]["attributes"]["callback-url"], "https://example.com/");
    assert_eq!(everything["instance"]["id"], INSTANCE_ID);
    assert_eq!(everything["instance"]["machineType"], "projects/421337000421/machineTypes/e2-small");
    assert_eq!(everything["instance"]["maintenanceEvent"], "NONE");
    assert_eq!(everything["instance"]["guestAttributes"], json!({}));
    assert_eq!(everything["instance"]["tags"], json!(["longrun"]));
    let account = json!({
        "aliases": ["default"],
        "email": SERVICE_ACCOUNT,
        "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
    });
    assert_eq!(
        everything["instance"]["serviceAccounts"],
        json!({ "default": account, SERVICE_ACCOUNT: account })
    );
    assert_eq!(everything["project"]["projectId"], PROJECT);
    assert_eq!(everything["project"]["numericProjectId"], 421_337_000_421_u64);
}

#[tokio::test]
async fn a_folder_without_its_slash_is_a_redirect_and_a_value_with_one_is_absent() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    for (path, location) in [
        ("instance", "/computeMetadata/v1/instance/"),
        ("instance/attributes?recursive=true", "/computeMetadata/v1/instance/attributes/?recursive=true"),
    ] {
        let answer = Ask::metadata(path).answer(&sandbox).await;
        assert_eq!((answer.status(), answer.header("location")), (301, location));
    }
    assert_eq!(Ask::metadata("instance/id/").answer(&sandbox).await.status(), 404);
    assert_eq!(Ask::metadata("instance/attributes/absent").answer(&sandbox).await.status(), 404);
    assert_eq!(Ask::metadata("instance/id/deeper").answer(&sandbox).await.status(), 404);
}

#[tokio::test]
async fn what_no_vm_should_send_is_refused_and_noted() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let plain = |method, path| Ask::new(method, path);
    let good = |method, path| plain(method, path).header("Metadata-Flavor", "Google");
    let id = "/computeMetadata/v1/instance/id";
    for (ask, status, complaint) in [
        (plain("GET", id), 403, "a request to the metadata server lacked Metadata-Flavor"),
        (
            plain("GET", id).header("Metadata-Flavor", "google"),
            403,
            "a request to the metadata server lacked Metadata-Flavor",
        ),
        (
            good("GET", id).header("X-Forwarded-For", "10.0.0.1"),
            403,
            "a request to the metadata server carried X-Forwarded-For",
        ),
        (
            good("GET", "/computeMetadata/0.1/meta-data/"),
            404,
            "nothing answers GET /computeMetadata/0.1/meta-data/",
        ),
        (good("POST", id), 405, "nothing answers POST /computeMetadata/v1/instance/id"),
        (good("PUT", id), 404, "nothing answers PUT /computeMetadata/v1/instance/id"),
        (plain("GET", "/favicon.ico"), 404, "nothing answers GET /favicon.ico"),
    ] {
        let noted = sandbox.complaints().len();
        assert_eq!(ask.answer(&sandbox).await.status(), status, "{complaint}");
        assert_eq!(sandbox.complaints()[noted..], [complaint]);
    }
}

#[tokio::test]
async fn it_can_be_found_out_without_the_header() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let answer = Ask::new("GET", "/").answer(&sandbox).await;
    assert_eq!((answer.status(), answer.text()), (200, "computeMetadata/\n"));
    assert_eq!(answer.header("metadata-flavor"), "Google");
    assert_eq!(answer.header("server"), "Metadata Server for VM");
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn an_etag_changes_with_what_it_tags_and_with_nothing_else() {
    let sandbox = Sandbox::builder().attribute("a", "1").start().await.expect("a sandbox");
    let etag = async |path| Ask::metadata(path).answer(&sandbox).await.header("etag").to_owned();
    let (value, folder, other) =
        (etag("instance/attributes/a").await, etag("instance/").await, etag("project/").await);
    assert_eq!(etag("instance/attributes/a").await, value);
    sandbox.set_attribute("a", "2");
    assert_ne!(etag("instance/attributes/a").await, value);
    assert_ne!(etag("instance/").await, folder);
    assert_eq!(etag("project/").await, other);
}

#[tokio::test]
async fn a_wait_ends_with_the_change() {
    let sandbox = Sandbox::builder().attribute("a", "1").start().await.expect("a sandbox");
    let etag = Ask::metadata("instance/attributes/a").answer(&sandbox).await.header("etag").to_owned();
    let path = format!("instance/attributes/a?wait_for_change=true&last_etag={etag}");

    let mut waiting = Box::pin(Ask::metadata(&path).answer(&sandbox));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "nothing changed yet");
    sandbox.set_attribute("other", "1");
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "another value changed");
    sandbox.set_attribute("a", "2");
    assert_eq!(waiting.await.text(), "2");

    let late = Ask::metadata(&path).answer(&sandbox).await;
    assert_eq!(late.text(), "2", "what changed in between is answered at once");
}

#[tokio::test]
async fn a_wait_that_runs_out_answers_what_is_there() {
    let sandbox = Sandbox::builder().attribute("a", "1").start().await.expect("a sandbox");
    for path in [
        "instance/attributes/a?wait_for_change=true&timeout_sec=0",
        "instance/attributes/a?wait_for_change=true&timeout_sec=1",
        "instance/attributes/a?wait_for_change=true&last_etag=NONE&timeout_sec=3600",
    ] {
        let answer = Ask::metadata(path).answer(&sandbox).await;
        assert_eq!((answer.status(), answer.text()), (200, "1"), "{path}");
    }
}

#[tokio::test]
async fn a_value_that_is_removed_during_a_wait_is_absent() {
    let sandbox = Sandbox::builder().attribute("a", "1").start().await.expect("a sandbox");
    let mut waiting = Box::pin(Ask::metadata("instance/attributes/a?wait_for_change=true").answer(&sandbox));
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "nothing changed yet");
    sandbox.remove_attribute("a");
    assert_eq!(waiting.await.status(), 404);
}

#[tokio::test]
async fn a_bad_question_is_a_bad_request() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    for path in [
        "instance/service-accounts/default/token?wait_for_change=true",
        "instance/service-accounts/default/identity",
        "instance/service-accounts/default/identity?audience=",
        "instance/id?alt=xml",
        "instance/id?wait_for_change=true&timeout_sec=soon",
    ] {
        assert_eq!(Ask::metadata(path).answer(&sandbox).await.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn a_guest_attribute_is_written_only_where_that_is_enabled() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let put = |body| {
        Ask::new("PUT", "/computeMetadata/v1/instance/guest-attributes/longrun/phase")
            .header("Metadata-Flavor", "Google")
            .body(body)
    };
    assert_eq!(put("pull").answer(&sandbox).await.status(), 403);

    sandbox.set_attribute("enable-guest-attributes", "TRUE");
    assert_eq!(put("pull").answer(&sandbox).await.status(), 200);
    assert_eq!(sandbox.metadata("instance/guest-attributes/longrun/phase").as_deref(), Some("pull"));
    let read = Ask::metadata("instance/guest-attributes/?recursive=true").answer(&sandbox).await;
    assert_eq!(read.json(), json!({ "longrun": { "phase": "pull" } }));
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_vm_without_a_service_account_has_no_token() {
    let sandbox = Sandbox::builder().without_service_account().start().await.expect("a sandbox");
    for path in [
        "instance/service-accounts/",
        "instance/service-accounts/default/token",
        "instance/service-accounts/default/",
    ] {
        assert_eq!(Ask::metadata(path).answer(&sandbox).await.status(), 404, "{path}");
    }
    let everything = Ask::metadata("?recursive=true").answer(&sandbox).await.json();
    assert_eq!(everything["instance"].get("serviceAccounts"), None);
}

#[tokio::test]
async fn the_first_requests_get_what_was_written_down_for_them() {
    let answers = [503.into(), Answer::status(429).header("Retry-After", "7"), Answer::hang_up()];
    let sandbox = Sandbox::builder().metadata_answers(answers).start().await.expect("a sandbox");
    let ask = || Ask::metadata("instance/id");
    let down = ask().answer(&sandbox).await;
    assert_eq!((down.status(), down.header("metadata-flavor")), (503, "Google"));
    let busy = ask().answer(&sandbox).await;
    assert_eq!((busy.status(), busy.header("retry-after")), (429, "7"));
    assert!(ask().send(&sandbox).await.is_err());
    assert_eq!(ask().answer(&sandbox).await.status(), 200);
}
