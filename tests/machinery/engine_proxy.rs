//! A socket in front of the machine's Engine that does what Engines do on bad days: it closes connections,
//! loses answers, or says something else.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use super::PATIENCE;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection closes before the Engine has it.
    Close,
    /// The Engine has it, and the connection closes instead of an answer.
    LoseAnswer,
    /// The Engine has it, and the connection closes after the answer's head.
    CutBody,
    /// The Engine has it, and after the answer's head nothing comes for as long as the agent waits.
    HoldBody,
    /// The Engine has it, and the connection closes after the answer's head and so many bytes.
    CutAfter(u64),
    /// The Engine never has it, and nothing comes for as long as the agent waits.
    Hang,
    /// The Engine never has it, and this is the answer.
    Say(&'static str),
}

/// A proxy; gone when dropped.
pub(crate) struct EngineProxy {
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

/// The faults to come: in each, parts of a request's first line, apart by blanks.
type Faults = Arc<Mutex<Vec<(&'static str, Fault)>>>;

impl EngineProxy {
    /// A proxy in which each fault happens once, to the first request whose first line has all its parts.
    pub(crate) fn start(faults: &[(&'static str, Fault)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let (faults, requests): (Faults, _) = (Arc::new(Mutex::new(faults.to_vec())), Arc::default());
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (faults, seen) = (Arc::clone(&faults), Arc::clone(&seen));
                // A connection that breaks is what this is for.
                tokio::spawn(async move { drop(serve(client, faults, seen).await) });
            }
        });
        Self { folder, requests }
    }

    /// `DOCKER_HOST` for an agent.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Waits for a request that has these parts, apart by blanks, in its first line.
    pub(crate) async fn requested(&self, parts: &str) {
        let has_all = |line: &String| parts.split(' ').all(|part| line.contains(part));
        let requested = async {
            while !self.requests.lock().expect("no panic").iter().any(has_all) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, requested).await.unwrap_or_else(|_| panic!("the agent never asked for {parts}"));
    }

    /// How many requests had this in their first line.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.requests.lock().expect("no panic").iter().filter(|line| line.contains(text)).count()
    }
}

/// One request: both connections close after it, so that none is seen by the wrong eyes.
async fn serve(mut client: UnixStream, faults: Faults, seen: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let line = request.lines().next().unwrap_or_default().to_owned();
    seen.lock().expect("no panic").push(line.clone());
    let fault = {
        let mut faults = faults.lock().expect("no panic");
        let found = faults.iter().position(|(parts, _)| parts.split(' ').all(|part| line.contains(part)));
        found.map(|at| faults.remove(at).1)
    };
    match fault {
        Some(Fault::Close) => return Ok(()),
        Some(Fault::Hang) => return client.read(&mut [0; 1]).await.map(drop),
        Some(Fault::Say(answer)) => return client.write_all(answer.as_bytes()).await,
        Some(Fault::LoseAnswer | Fault::CutBody | Fault::HoldBody | Fault::CutAfter(_)) | None => {}
    }
    let mut engine = UnixStream::connect(super::engine_socket()).await?;
    if request.contains("Upgrade:") || request.contains("upgrade:") {
        engine.write_all(request.as_bytes()).await?;
        return match fault {
            None => copy_bidirectional(&mut client, &mut engine).await.map(drop),
            Some(fault) => forward_some(&mut engine, &mut client, fault).await,
        };
    }
    let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    engine.write_all(request.as_bytes()).await?;
    match fault {
        Some(Fault::LoseAnswer) => engine.read(&mut [0; 1]).await.map(drop),
        Some(fault) => {
            forward_some(&mut engine, &mut client, fault).await?;
            match fault {
                Fault::HoldBody => client.read(&mut [0; 1]).await.map(drop),
                _ => Ok(()),
            }
        }
        None => copy(&mut engine, &mut client).await.map(drop),
    }
}

/// The head, and the body as long as it says. Every request of the agent is text.
async fn read_request(client: &mut UnixStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.and_then(|length| length.trim().parse().ok()).unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head of an answer, and as much of its body as the fault lets through.
async fn forward_some(engine: &mut UnixStream, client: &mut UnixStream, fault: Fault) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(engine.read_u8().await?);
    }
    client.write_all(&head).await?;
    let length = if let Fault::CutAfter(length) = fault { length } else { 0 };
    copy(&mut engine.take(length), client).await.map(drop)
}
