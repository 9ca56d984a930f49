//! A Storage server that is not ours, behind a proxy that interrupts every part of an upload once.

use std::{collections::HashSet, io, net::SocketAddr, path::PathBuf, process::Stdio};

use sandbox::{BUCKET, Sandbox, tools};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::Mutex,
};

const PACKAGES: [&str; 1] = ["gcp-storage-emulator==2026.7.19"];

/// Serves until its input ends, and prints its port.
const SERVE: &str = r#"
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=sys.argv[1])
server.start()
print(server._api._httpd.socket.getsockname()[1], flush=True)
sys.stdin.read()
"#;

/// Prints what is at an address, unpacked.
const READ: &str = r#"
import gzip, sys, urllib.request
sys.stdout.buffer.write(gzip.decompress(urllib.request.urlopen(sys.argv[1]).read()))
"#;

/// The server and the proxy; gone when dropped.
pub(crate) struct Emulator {
    python: PathBuf,
    address: SocketAddr,
    proxy: SocketAddr,
    _process: Child,
}

/// What a request goes through.
struct Proxy {
    storage: SocketAddr,
    others: SocketAddr,
    /// The parts that were interrupted.
    interrupted: Mutex<HashSet<String>>,
}

impl Emulator {
    /// What is not for Cloud Storage goes to the sandbox.
    pub(crate) async fn start(sandbox: &Sandbox) -> Self {
        let python = tools::venv(&PACKAGES).expect("the emulator").join("bin/python");
        let mut process = Command::new(&python)
            .args(["-c", SERVE, BUCKET])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let port = lines.next_line().await.expect("a line").expect("its port");
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a number")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = listener.local_addr().expect("its address");
        let (others, interrupted) = (sandbox.address(), Mutex::default());
        tokio::spawn(Proxy { storage: address, others, interrupted }.serve(listener));
        Self { python, address, proxy, _process: process }
    }

    /// `LONGRUN_GOOGLE_ENDPOINT` for an agent.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// An object, unpacked.
    pub(crate) async fn unpacked(&self, uri: &str) -> Vec<u8> {
        let name = uri.strip_prefix(&format!("gs://{BUCKET}/")).expect("it is in the bucket");
        let url = format!("http://{}/storage/v1/b/{BUCKET}/o/{name}?alt=media", self.address);
        let output = Command::new(&self.python).args(["-c", READ, &url]).output().await.expect("python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Proxy {
    async fn serve(self, listener: TcpListener) {
        while let Ok((client, _)) = listener.accept().await {
            // A connection that breaks is what this is for.
            drop(self.pass(client).await);
        }
    }

    /// One request: its connection closes after it.
    async fn pass(&self, mut client: TcpStream) -> io::Result<()> {
        let (head, body) = read_request(&mut client).await?;
        let is_storage = head.contains("x-forwarded-host: storage.googleapis.com");
        let part = head.lines().find_map(|line| line.strip_prefix("content-range: bytes "));
        // The emulator forgets an upload that is complete: that one is interrupted before it is.
        let is_last = part.is_some_and(|part| !part.ends_with("/*"));
        let interrupt = match part.filter(|part| !part.starts_with('*')) {
            Some(part) => self.interrupted.lock().await.insert(part.to_owned()),
            None => false,
        };
        if interrupt && is_last {
            return Ok(());
        }
        let server = if is_storage { self.storage } else { self.others };
        let mut server = TcpStream::connect(server).await?;
        let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        server.write_all(head.as_bytes()).await?;
        server.write_all(&body).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        if interrupt {
            return Ok(());
        }
        let own = format!("Location: http://{}/", client.local_addr()?);
        client.write_all(&replaced(&answer, &own, "Location: https://storage.googleapis.com/")).await
    }
}

/// The server gives its own address where the service gives Google's.
fn replaced(answer: &[u8], from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(answer).replacen(from, to, 1).into_bytes()
}

/// The head with its fields' names in lower case, and the body.
async fn read_request(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (line, fields) = head.split_once("\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let head = format!("{line}\r\n{}", lower_names(fields));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    client.read_exact(&mut body).await?;
    Ok((head, body))
}

fn lower_names(fields: &str) -> String {
    let field = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\r\n", name.to_ascii_lowercase()),
        None => format!("{line}\r\n"),
    };
    fields.lines().map(field).collect()
}
