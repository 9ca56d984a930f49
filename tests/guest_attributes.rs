//! Guest attributes show a run to people outside, and cost it nothing.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{net::SocketAddr, time::Duration};

use machinery::{Ended, GIVEN, Given, run, start_in};
use sandbox::{Answer, Builder, Sandbox};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const ENABLED: (&str, &str) = ("enable-guest-attributes", "TRUE");
const FOLDER: &str = "instance/guest-attributes/longrun";

#[tokio::test]
async fn the_phases_are_shown_in_their_order() {
    let sandbox = Sandbox::builder().attribute(ENABLED.0, ENABLED.1).start().await.unwrap();
    sandbox.set_metadata(&format!("{FOLDER}/phase"), "none");
    let phases = tokio::spawn(phases(sandbox.address()));
    let attributes = [("longrun-timeout", "2s"), ("longrun-stop-grace", "1s")];
    let given = Given { command: "docker run IMAGE ignore-term wait", attributes: &attributes, ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    let mut phases = timeout(Duration::from_secs(60), phases).await.unwrap().unwrap();
    // Between the end and its delivery there may be no time to write anything.
    phases.retain(|phase| phase != "ended");
    assert_eq!(phases, ["none", "ordered", "running", "stopping", "reported"]);
    ended.report();
}

#[tokio::test]
async fn at_the_end_everything_is_there_that_the_callback_was_told() {
    let attributes = [ENABLED, ("longrun-max-attempts", "2")];
    let given = Given { command: "docker run IMAGE print é exit 3", attributes: &attributes, ..GIVEN };
    let ended = run(given).await;
    let report: Value = serde_json::from_str(&shown(&ended, "report").unwrap()).unwrap();
    assert_eq!(report, ended.report());
    assert_eq!(shown(&ended, "attempt").as_deref(), Some("2"));
    assert_eq!(shown(&ended, "phase").as_deref(), Some("reported"));
    humantime::parse_rfc3339(&shown(&ended, "heartbeat").unwrap()).unwrap();
    assert!(writes(&ended.sandbox) <= 10, "{:#?}", ended.sandbox.requests());
}

#[tokio::test]
async fn a_report_that_is_too_large_is_shown_with_less_of_the_log() {
    let attributes = [ENABLED, ("longrun-log-tail", "128KiB")];
    let given = Given { command: "docker run IMAGE lines 2000 99", attributes: &attributes, ..GIVEN };
    let ended = run(given).await;
    let text = shown(&ended, "report").unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(text.len() <= 128 << 10, "{}", text.len());
    assert_eq!(report["logs"]["bytes"], ended.report()["logs"]["bytes"]);
    let (tail, whole) = (report["logs"]["tail"].as_str().unwrap(), ended.report());
    assert!(!tail.is_empty() && whole["logs"]["tail"].as_str().unwrap().ends_with(tail));
}

#[tokio::test]
async fn a_vm_that_does_not_allow_them_is_not_asked() {
    for attributes in [&[][..], &[("enable-guest-attributes", "FALSE")]] {
        let ended = run(Given { attributes, ..GIVEN }).await;
        assert_eq!((&ended.report()["reason"], writes(&ended.sandbox)), (&"Completed".into(), 0));
    }
}

#[tokio::test]
async fn the_first_refusal_ends_it() {
    let clouds: [fn(Builder) -> Builder; 2] =
        [|cloud| cloud.guest_attribute_answers([403]), |cloud| cloud.guest_attribute_answers([404])];
    for cloud in clouds {
        let ended = run(Given { cloud, attributes: &[ENABLED], ..GIVEN }).await;
        assert_eq!((&ended.report()["reason"], writes(&ended.sandbox)), (&"Completed".into(), 1));
        assert!(ended.logged("the run is not shown in guest attributes"), "{:#?}", ended.log);
    }
}

#[tokio::test]
async fn what_fails_for_a_moment_is_left_out_and_the_end_is_shown() {
    let answers = [503.into(), Answer::hang_up(), 429.into()];
    let sandbox = Sandbox::builder().guest_attribute_answers(answers).start().await.unwrap();
    let given = Given { command: "docker run IMAGE pause 1500", attributes: &[ENABLED], ..GIVEN };
    let ended = start_in(sandbox, given).ended().await;
    let report: Value = serde_json::from_str(&shown(&ended, "report").unwrap()).unwrap();
    assert_eq!(report, ended.report());
}

#[tokio::test]
async fn a_server_that_hangs_delays_neither_the_job_nor_the_report() {
    let answers = std::iter::repeat_with(Answer::silence).take(20);
    let sandbox = Sandbox::builder().guest_attribute_answers(answers).start().await.unwrap();
    let agent = start_in(sandbox, Given { attributes: &[ENABLED], ..GIVEN });
    timeout(Duration::from_secs(60), agent.sandbox.next_report()).await.unwrap();
    // The first one is still being waited for.
    assert_eq!(writes(&agent.sandbox), 1);
    let ended = agent.ended().await;
    assert_eq!((&ended.report()["reason"], ended.status.code()), (&"Completed".into(), Some(0)));
}

/// Every value that the phase has until the run was told, by long poll.
async fn phases(address: SocketAddr) -> Vec<String> {
    let (mut phases, mut etag) = (Vec::new(), "0".to_owned());
    while phases.last().is_none_or(|phase| phase != "reported") {
        let path = format!("/computeMetadata/v1/{FOLDER}/phase?wait_for_change=true&last_etag={etag}");
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nMetadata-Flavor: Google\r\nConnection: close");
        let (mut stream, mut answer) = (TcpStream::connect(address).await.unwrap(), String::new());
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, value) = answer.split_once("\r\n\r\n").unwrap();
        etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        phases.push(value.to_owned());
    }
    phases
}

fn shown(ended: &Ended, key: &str) -> Option<String> {
    ended.sandbox.metadata(&format!("{FOLDER}/{key}"))
}

fn writes(sandbox: &Sandbox) -> usize {
    sandbox
        .requests()
        .iter()
        .filter(|line| line.starts_with("PUT ") && line.contains("/guest-attributes/longrun/"))
        .count()
}
