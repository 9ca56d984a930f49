use std::time::Duration;

use sandbox::{Answer, Sandbox};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Ask, token};

#[tokio::test]
async fn the_first_calls_get_what_was_written_down_for_them() {
    let answers = [
        401.into(),
        Answer::status(503).header("Retry-After", "2"),
        Answer::hang_up(),
        Answer::silence(),
        Answer::lost(),
    ];
    let sandbox = Sandbox::builder().callback_answers(answers).start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    let ask = |body| Ask::google("POST", &sandbox.callback_url()).bearer(&token).body(body);

    let refused = ask("1").answer(&sandbox).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (401, &401.into()));
    let busy = ask("2").answer(&sandbox).await;
    assert_eq!((busy.status(), busy.header("retry-after")), (503, "2"));
    assert!(ask("3").send(&sandbox).await.is_err());
    tokio::select! {
        answer = ask("4").send(&sandbox) => panic!("{answer:?}"),
        () = called(&sandbox, 4) => {}
    }
    assert!(ask("5").send(&sandbox).await.is_err());
    assert_eq!(ask("6").answer(&sandbox).await.status(), 200);

    let statuses: Vec<_> = sandbox.calls().iter().map(|call| call.status).collect();
    assert_eq!(statuses, [Some(401), Some(503), None, None, Some(200), Some(200)]);
    assert_eq!(sandbox.reports(), [5, 6], "the fifth was taken, though nobody was told");
}

#[tokio::test]
async fn a_call_is_recorded_as_it_came() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let url = format!("{}?a=1", sandbox.callback_url());
    let ask = Ask::google("POST", &url).bearer(&token(&sandbox).await).header("Idempotency-Key", "run-1");
    ask.header("X-Twice", "a").header("X-Twice", "b").body("not JSON").answer(&sandbox).await;

    let call = sandbox.next_call().await;
    assert_eq!(
        (call.method.as_str(), call.path.as_str()),
        ("POST", url.split_once(".com").expect("a host").1)
    );
    assert_eq!((&*call.headers["idempotency-key"], &*call.headers["x-twice"]), ("run-1", "a, b"));
    assert_eq!((call.body.as_slice(), call.report()), (b"not JSON".as_slice(), json!("not JSON")));
}

#[tokio::test]
async fn a_plain_callback_wants_no_credential() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let address = format!("http://{}", sandbox.address());
    let url = sandbox.plain_callback_url();
    let path = url.strip_prefix(&address).expect("it is here");

    assert_eq!(Ask::new("GET", path).answer(&sandbox).await.status(), 405);
    assert_eq!(Ask::new("POST", &format!("{path}x")).answer(&sandbox).await.status(), 404);
    assert_eq!(Ask::new("POST", path).body(r#"{"a":1}"#).answer(&sandbox).await.status(), 200);
    assert_eq!(sandbox.reports(), [json!({ "a": 1 })]);
    assert_eq!(sandbox.complaints(), [""; 0]);

    assert_eq!(
        Ask::new("POST", path).header("Authorization", "Basic eDp5").answer(&sandbox).await.status(),
        200
    );
    assert_eq!(sandbox.complaints(), ["a credential was sent to the plain callback"]);
}

#[tokio::test]
async fn each_report_is_told_once_and_awaited_before_it_is_there() {
    let sandbox = Sandbox::builder().callback_answers([503]).start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    let send = |body| Ask::google("POST", &sandbox.callback_url()).bearer(&token).body(body).answer(&sandbox);
    let (first, _) =
        tokio::join!(sandbox.next_report(), async { (send("1").await, send("2").await, send("3").await) });
    assert_eq!(first, 2);
    assert_eq!(sandbox.next_report().await, 3);
    assert_eq!(sandbox.next_call().await.status, Some(503));
    assert_eq!(sandbox.next_call().await.report(), 2);
}

#[tokio::test]
async fn an_outage_refuses_every_call_until_it_is_over() {
    let sandbox = Sandbox::builder().callback_answers([429]).start().await.expect("a sandbox");
    let token = token(&sandbox).await;
    let send = |body| Ask::google("POST", &sandbox.callback_url()).bearer(&token).body(body).answer(&sandbox);
    sandbox.set_callback_outage(true);
    assert_eq!((send("1").await.status(), send("2").await.status()), (503, 503));
    sandbox.set_callback_outage(false);
    assert_eq!((send("3").await.status(), send("4").await.status()), (429, 200));
    assert_eq!(sandbox.reports(), [4]);
}

#[tokio::test]
async fn sandboxes_do_not_share_anything() {
    let (one, other) = tokio::join!(Sandbox::builder().start(), Sandbox::builder().start());
    let (one, other) = (one.expect("a sandbox"), other.expect("a sandbox"));
    assert_ne!(one.address(), other.address());
    assert_ne!(one.callback_url(), other.callback_url());
    let of_the_other = token(&other).await;
    let refused = Ask::google("POST", &one.callback_url()).bearer(&of_the_other).answer(&one).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(one.environment()[0], ("GCE_METADATA_HOST", one.address().to_string()));
    assert_eq!(one.environment()[1], ("LONGRUN_GOOGLE_ENDPOINT", format!("http://{}", one.address())));
}

#[tokio::test]
async fn a_dropped_sandbox_is_gone() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let address = sandbox.address();
    let waiting = Ask::metadata("instance/id?wait_for_change=true").send(&sandbox);
    assert!(timeout(Duration::from_millis(50), waiting).await.is_err());
    drop(sandbox);
    let gone = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the address is closed");
}

/// Until so many calls more came in.
async fn called(sandbox: &Sandbox, times: usize) {
    for _ in 0..times {
        sandbox.next_call().await;
    }
}
