//! The Engine as agents meet it on other machines: other API versions, and Engines that misbehave.

mod machinery;

use std::sync::{Arc, Mutex};

use machinery::{GIVEN, Given, run};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

#[tokio::test]
async fn the_engine_is_spoken_to_in_a_version_that_both_sides_know() {
    for (engines, spoken) in
        [("1.41", "/v1.41/"), ("1.43", "/v1.43/"), ("1.52", "/v1.52/"), ("1.99", "/v1.52/")]
    {
        let engine = FakeEngine::start(&[
            &format!("200 OK\r\nApi-Version: {engines}"),
            "404 Not Found",
            "404 Not Found\r\nX: no such image",
        ]);
        let report = ran_on(&engine).await;
        assert_eq!(report["reason"], "ImagePullFailed", "{report:#}");
        let requests = engine.requests();
        assert!(requests[0].starts_with("GET /_ping "), "{requests:?}");
        assert!(requests[1..].iter().all(|request| request.contains(spoken)), "{requests:?}");
    }
}

#[tokio::test]
async fn what_is_no_engine_is_told_as_lost() {
    for answer in ["200 OK", "200 OK\r\nApi-Version: latest", "503 Service Unavailable"] {
        let report = ran_on(&FakeEngine::start(&[answer])).await;
        assert_eq!(report["reason"], "EngineLost", "{answer}: {report:#}");
    }
}

async fn ran_on(engine: &FakeEngine) -> serde_json::Value {
    let host = format!("unix://{}", engine.folder.path().join("docker.sock").display());
    let environment = [("DOCKER_HOST", &*host), ("LONGRUN_ENGINE_WAIT", "1s")];
    run(Given { environment: &environment, ..GIVEN }).await.report()
}

/// A socket that gives these answers, the last one for ever, and notes the requests' first lines.
struct FakeEngine {
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeEngine {
    fn start(answers: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<[String]> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Self::serve(client, Arc::clone(&answers), Arc::clone(&seen)));
            }
        });
        Self { folder, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    async fn serve(mut client: UnixStream, answers: Arc<[String]>, seen: Arc<Mutex<Vec<String>>>) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = client.read(&mut buffer).await {
            let request = String::from_utf8_lossy(&buffer[..length]);
            let line = request.lines().next().unwrap_or_default().to_owned();
            let index = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(line);
                seen.len() - 1
            };
            let head = answers.get(index).or(answers.last()).expect("an answer");
            let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
            if client.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
