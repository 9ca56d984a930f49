use sandbox::{BUCKET, Mishap, Sandbox};

use crate::client::{Answer, Ask, token};

const GRAIN: usize = 256 * 1024;

#[tokio::test]
async fn an_object_is_there_once_its_last_byte_is() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let session = begin(&sandbox, BUCKET, "a/b").await;
    let session = session.header("location");
    assert!(session.starts_with("https://storage.googleapis.com/upload/storage/v1/b/"), "{session}");

    let asked = put(&sandbox, session, "bytes */*", &[]).await;
    assert_eq!((asked.status(), asked.header("range")), (308, ""));
    let part = put(&sandbox, session, &format!("bytes 0-{}/*", GRAIN - 1), &[1; GRAIN]).await;
    assert_eq!((part.status(), part.header("range")), (308, "bytes=0-262143"));
    assert!(sandbox.objects().is_empty());

    let total = GRAIN + 3;
    let last = put(&sandbox, session, &format!("bytes {GRAIN}-{}/{total}", total - 1), b"end").await;
    assert_eq!((last.status(), &last.json()["size"]), (200, &total.to_string().into()));
    let again = put(&sandbox, session, &format!("bytes */{total}"), &[]).await;
    assert_eq!(again.status(), 200);
    assert_eq!(sandbox.objects()[0].bytes, [&[1; GRAIN][..], b"end"].concat());
    assert_eq!(sandbox.complaints(), [""; 0]);

    assert_eq!(begin(&sandbox, BUCKET, "a/b").await.status(), 412, "it is there");
}

#[tokio::test]
async fn a_part_that_is_not_as_it_should_be_is_refused_and_noted() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    let session = begin(&sandbox, BUCKET, "a").await;
    let session = session.header("location");
    for (range, body) in [
        ("bytes 0-9/*", &b"0123456789"[..]),
        ("bytes 0-8/10", b"0123456789"),
        ("bytes 10-19/20", b"0123456789"),
    ] {
        assert_eq!(put(&sandbox, session, range, body).await.status(), 400, "{range}");
    }
    assert_eq!(sandbox.complaints().len(), 3);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_has_its_status() {
    let sandbox = Sandbox::builder().start().await.expect("a sandbox");
    assert_eq!(begin(&sandbox, "no-such-bucket", "a").await.status(), 404);
    let session = begin(&sandbox, BUCKET, "a").await;
    let forgotten = session.header("location").replace("upload_id=", "upload_id=x");
    assert_eq!(put(&sandbox, &forgotten, "bytes */*", &[]).await.status(), 410);
    let unknown = Ask::google("PUT", session.header("location")).header("Content-Range", "bytes */*");
    assert_eq!(unknown.answer(&sandbox).await.status(), 401);
}

#[tokio::test]
async fn a_mishap_happens_to_the_request_of_its_number() {
    let builder = Sandbox::builder().storage_mishap(2, Mishap::Short).storage_mishap(3, Mishap::Forgotten);
    let sandbox = builder.start().await.expect("a sandbox");
    let session = begin(&sandbox, BUCKET, "a").await;
    let session = session.header("location");
    let range = format!("bytes 0-{}/*", 2 * GRAIN - 1);
    let short = put(&sandbox, session, &range, &[1; 2 * GRAIN]).await;
    assert_eq!((short.status(), short.header("range")), (308, "bytes=0-262143"));
    assert_eq!(put(&sandbox, session, "bytes */*", &[]).await.status(), 410);
}

async fn begin(sandbox: &Sandbox, bucket: &str, name: &str) -> Answer {
    let url = format!(
        "https://storage.googleapis.com/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={name}&ifGenerationMatch=0"
    );
    let token = token(sandbox).await;
    Ask::google("POST", &url).bearer(&token).body(&b"{}"[..]).answer(sandbox).await
}

async fn put(sandbox: &Sandbox, session: &str, range: &str, body: &[u8]) -> Answer {
    let ask = Ask::google("PUT", session).bearer(&token(sandbox).await).header("Content-Range", range);
    ask.body(body.to_vec()).answer(sandbox).await
}
