//! What the agent learns of its VM's end: each notice once and at once, at next to no cost.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use longrun_agent::google::{
    Metadata,
    notices::{Notice, watch},
};
use sandbox::{Answer, Builder, Sandbox};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::yield_now,
    time::timeout,
};

const PREEMPTED: &str = "instance/preempted";
const STOP_STATE: &str = "instance/shutdown-details/stop-state";
/// Less than the minute after which a long poll is answered in any case.
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test]
async fn what_was_known_before_is_told_at_once() {
    let sandbox = a_vm_that_goes(Sandbox::builder()).await;
    let mut notices = watched(sandbox.address());
    assert_eq!(all(&mut notices).await, [Notice::Preempted, Notice::Stopping]);
    assert_eq!((asked(&sandbox, PREEMPTED), asked(&sandbox, STOP_STATE)), (1, 1));
    assert_eq!(sandbox.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_change_is_told_when_it_comes_without_asking_again() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.set_metadata(STOP_STATE, "UNSPECIFIED");
    let mut notices = watched(sandbox.address());
    waiting(&sandbox, PREEMPTED).await;
    waiting(&sandbox, STOP_STATE).await;

    sandbox.set_metadata(STOP_STATE, "PENDING_STOP");
    assert_eq!(next(&mut notices).await, Some(Notice::Stopping));
    sandbox.set_metadata(PREEMPTED, "TRUE");
    assert_eq!(next(&mut notices).await, Some(Notice::Preempted));
    assert_eq!((asked(&sandbox, PREEMPTED), asked(&sandbox, STOP_STATE)), (2, 2));
}

#[tokio::test]
async fn a_notice_is_told_once_whatever_becomes_of_its_value() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    sandbox.set_metadata(STOP_STATE, "UNSPECIFIED");
    let mut notices = watched(sandbox.address());
    for value in ["TRUE", "FALSE", "TRUE"] {
        sandbox.set_metadata(PREEMPTED, value);
    }
    assert_eq!(next(&mut notices).await, Some(Notice::Preempted));
    sandbox.set_metadata(PREEMPTED, "FALSE");
    sandbox.set_metadata(PREEMPTED, "TRUE");
    sandbox.set_metadata(STOP_STATE, "PENDING_STOP");
    assert_eq!(all(&mut notices).await, [Notice::Stopping]);
}

#[tokio::test]
async fn a_server_in_maintenance_is_asked_again() {
    let maintenance = [Answer::status(503), Answer::hang_up()];
    let sandbox = a_vm_that_goes(Sandbox::builder().metadata_answers(maintenance)).await;
    let mut notices = watched(sandbox.address());
    assert_eq!(all(&mut notices).await, [Notice::Preempted, Notice::Stopping]);
}

#[tokio::test]
async fn a_server_that_goes_away_during_the_wait_is_waited_for() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let address = sandbox.address();
    let mut notices = watched(address);
    waiting(&sandbox, PREEMPTED).await;
    drop(sandbox);
    // Its address is free once its tasks have noticed.
    yield_now().await;
    let sandbox = Sandbox::builder().listen(address).start().await.unwrap();
    sandbox.set_metadata(PREEMPTED, "TRUE");
    assert_eq!(next(&mut notices).await, Some(Notice::Preempted));
}

#[tokio::test]
async fn a_server_that_does_not_wait_is_asked_once_a_second_and_for_a_missing_key_once_a_minute() {
    let started = Instant::now();
    let (address, mut requests) = hasty_server().await;
    let _notices = watched(address);
    let mut missing = 0;
    for _ in 0..3 {
        while !next(&mut requests).await.unwrap().contains(PREEMPTED) {
            missing += 1;
        }
    }
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(missing, 1);
}

/// A VM that is preempted, in a graceful shutdown.
async fn a_vm_that_goes(cloud: Builder) -> Sandbox {
    let sandbox = cloud.start().await.unwrap();
    sandbox.set_metadata(PREEMPTED, "TRUE");
    sandbox.set_metadata(STOP_STATE, "PENDING_STOP");
    sandbox
}

/// The notices of a watch; they end when the watch returns.
fn watched(address: SocketAddr) -> UnboundedReceiver<Notice> {
    let metadata = Metadata::new(format!("http://{address}").parse().unwrap());
    let (tell, notices) = mpsc::unbounded_channel();
    // A test that has seen enough listens no longer.
    let tell = move |notice| _ = tell.send(notice);
    tokio::spawn(async move { watch(&metadata, tell).await });
    notices
}

/// The next notice, or request; `None` after the last.
async fn next<T>(channel: &mut UnboundedReceiver<T>) -> Option<T> {
    timeout(PATIENCE, channel.recv()).await.expect("nothing came")
}

/// All notices until the watch returned, in the order of their names.
async fn all(notices: &mut UnboundedReceiver<Notice>) -> Vec<Notice> {
    let mut all = Vec::new();
    let told = async {
        while let Some(notice) = notices.recv().await {
            all.push(notice);
        }
    };
    timeout(PATIENCE, told).await.expect("the watch goes on and on");
    all.sort_by_key(|notice| format!("{notice:?}"));
    all
}

/// Until the watch waits for a change: its first request is answered at once.
async fn waiting(sandbox: &Sandbox, key: &str) {
    timeout(PATIENCE, sandbox.requested(2, key)).await.expect("no second request");
}

fn asked(sandbox: &Sandbox, key: &str) -> usize {
    sandbox.requests().iter().filter(|line| line.contains(key)).count()
}

/// A server that answers every long poll at once and knows no graceful shutdown, and the requests that it gets.
async fn hasty_server() -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_at_once(stream, seen.clone()));
        }
    });
    (address, requests)
}

async fn answer_at_once(stream: TcpStream, seen: UnboundedSender<String>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(request)) = lines.next_line().await {
        while lines.next_line().await.unwrap().is_some_and(|header| !header.is_empty()) {}
        let status = if request.contains(PREEMPTED) { "200 OK" } else { "404 Not Found" };
        let head = format!("HTTP/1.1 {status}\r\nMetadata-Flavor: Google\r\nETag: 1f\r\nContent-Length: 5");
        seen.send(request).unwrap();
        writer.write_all(format!("{head}\r\n\r\nFALSE").as_bytes()).await.unwrap();
    }
}
