//! The shim's socket: the part of the Engine's API that the agent uses, of one container that is a command.
//!
//! Source: docs.docker.com/reference/api/engine; what is not in it, as the agent wants it: `POST /exit`, and in an
//! inspect's `State` the fields `LeftBehind`, `Survivors` and `Unseen`.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Either, Full, channel::Sender};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use nix::{fcntl::OFlag, sys::signal::Signal};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::UnixListener, time::sleep};

use super::{
    held::{Held, Order, Start, State},
    launch::{Refusal, WORK},
    log::{HEAD, LogReader, Next, TIME},
    output::PIECE,
    record::Ended,
    shim::Shim,
};
use crate::engine::tar;

/// What the agent asks for has been there since.
const API: &str = "1.41";
/// The Engine's way to say never.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// The longest file that is handed out: a result has less.
const LONGEST_FILE: u64 = 1 << 20;

/// After a connection that could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Body = Either<Full<Bytes>, Channel<Bytes>>;
type Answer = Result<Response<Body>, Refused>;

/// What is answered in a good answer's place.
struct Refused(StatusCode, String);

/// Takes connections until it is dropped.
pub(super) async fn accept(shim: &Arc<Shim>, listener: &UnixListener) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Of the connection that was about to come; or there are no more files, until another one closes.
            Err(error) => {
                eprintln!("a connection was not taken: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let shim = Arc::clone(shim);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shim = Arc::clone(&shim);
                async move { Ok::<_, Infallible>(answer(&shim, request).await) }
            });
            // How a connection ends is the client's affair.
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn answer(shim: &Arc<Shim>, request: Request<Incoming>) -> Response<Body> {
    let answered = route(shim, request).await;
    answered.unwrap_or_else(|Refused(status, message)| json_response(status, &json!({ "message": message })))
}

async fn route(shim: &Arc<Shim>, request: Request<Incoming>) -> Answer {
    let uri = Url::parse(&format!("http://shim{}", request.uri())).map_err(|error| bad(error.to_string()))?;
    let query =
        |name: &str| uri.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let path: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let path = match path.split_first() {
        Some((version, rest)) if version.strip_prefix('v') == Some(API) => rest,
        _ => &path,
    };
    let held = |id: &str| shim.held().filter(|held| is_called(held, id)).ok_or_else(no_such);
    match (request.method(), path) {
        (&Method::GET, ["_ping"]) => {
            let mut answer = empty(StatusCode::OK);
            answer.headers_mut().insert("Api-Version", API.parse().map_err(|_| no_such())?);
            Ok(answer)
        }
        // The command goes on whoever comes and goes.
        (&Method::GET, ["info"]) => Ok(json_response(StatusCode::OK, &json!({ "LiveRestoreEnabled": true }))),
        (&Method::POST, ["exit"]) if shim.slot().is_some() => {
            Err(Refused(StatusCode::CONFLICT, "there is a command".to_owned()))
        }
        (&Method::POST, ["exit"]) => {
            // Whoever hears the answer finds it gone.
            let _ = fs::remove_file(shim.folder.join(super::SOCKET));
            shim.dismissed.notify_one();
            Ok(empty(StatusCode::NO_CONTENT))
        }
        (&Method::GET, ["events"]) => Ok(happened(shim)),
        (&Method::POST, ["containers", "create"]) => {
            let body = request.into_body().collect().await.map_err(|error| bad(error.to_string()))?;
            create(shim, query("name").unwrap_or_default(), &body.to_bytes())
        }
        (&Method::GET, ["containers", id, "json"]) => held(id).map(|held| inspect(&held)),
        (&Method::POST, ["containers", id, "attach"]) => held(id).map(|held| attach(&held, request)),
        (&Method::POST, ["containers", id, "start"]) => start(&held(id)?).await,
        (&Method::POST, ["containers", id, "wait"]) => held(id)
            .map(|held| wait(held, query("condition").is_some_and(|condition| condition == "next-exit"))),
        (&Method::POST, ["containers", id, "kill"]) => {
            kill(&*held(id)?, &query("signal").unwrap_or_default()).await
        }
        (&Method::GET, ["containers", id, "logs"]) => {
            let since = query("since").and_then(|since| moment(&since)).unwrap_or_default();
            held(id).map(|held| logs(shim, held, since))
        }
        (&Method::GET, ["containers", id, "archive"]) => {
            held(id)?;
            archive(&shim.folder, Path::new(&query("path").unwrap_or_default()))
        }
        (&Method::DELETE, ["containers", id]) => {
            held(id)?.remove().await;
            *shim.slot() = None;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        _ => Err(Refused(StatusCode::NOT_FOUND, "the shim has no such call".to_owned())),
    }
}

fn create(shim: &Shim, name: String, body: &[u8]) -> Answer {
    let order: Order = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    let mut slot = shim.slot();
    if slot.is_some() {
        return Err(Refused(StatusCode::CONFLICT, "there is a command already".to_owned()));
    }
    let id =
        new_id().ok_or_else(|| Refused(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers".to_owned()))?;
    let held = Held::create(&shim.folder, id.clone(), name, shim.boot_id.clone(), order);
    *slot = Some(Arc::new(held));
    Ok(json_response(StatusCode::CREATED, &json!({ "Id": id, "Warnings": [] })))
}

fn inspect(held: &Held) -> Response<Body> {
    let (record, state) = (held.record(), held.state.borrow().clone());
    let time = |at: Option<SystemTime>| {
        at.map_or(NEVER.to_owned(), |at| humantime::format_rfc3339_nanos(at).to_string())
    };
    let (running, code, ended) = match &state {
        State::Created => (false, 0, None),
        State::Refused(refusal) => (false, refusal.code, None),
        State::Starting | State::Running => (true, 0, None),
        // The Engine's code for what it finds dead.
        State::Ended(ended) => (false, ended.code.unwrap_or(255), Some(ended)),
    };
    let options = if held.output.is_whole() { json!({}) } else { json!({ "dropped": "true" }) };
    let inspected = json!({
        "Id": record.id,
        "Name": record.name,
        "Config": { "Labels": record.labels, "Env": held.order.env },
        "HostConfig": { "LogConfig": { "Type": "longrun", "Config": options } },
        "State": {
            "Running": running,
            "ExitCode": code,
            "OOMKilled": ended.is_some_and(|ended| ended.oom_killed),
            "StartedAt": time(record.started_at),
            "FinishedAt": time(ended.and_then(|ended| ended.at)),
            "LeftBehind": ended.map(|ended: &Ended| &ended.left_behind),
            "Survivors": ended.map_or(0, |ended| ended.survivors),
            "Unseen": ended.is_some_and(|ended| ended.code.is_none()),
        },
    });
    json_response(StatusCode::OK, &inspected)
}

/// Turns the connection into the output from now on.
fn attach(held: &Held, request: Request<Incoming>) -> Response<Body> {
    let (mut pieces, left_behind) = held.output.attach();
    tokio::spawn(async move {
        let Ok(socket) = hyper::upgrade::on(request).await else { return };
        let mut socket = TokioIo::new(socket);
        while let Some(piece) = pieces.recv().await {
            if socket.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Half a frame's header is how the agent knows that more should have come, and reads on from the log.
        if left_behind.load(Ordering::Relaxed) {
            let _ = socket.write_all(&[1]).await;
        }
        let _ = socket.shutdown().await;
    });
    let mut answer = empty(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in [("Connection", "Upgrade"), ("Upgrade", "tcp")] {
        answer.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    }
    answer
}

async fn start(held: &Arc<Held>) -> Answer {
    // Whoever asks may go away halfway, and what was begun is not to be left so.
    let starting = tokio::spawn({
        let held = Arc::clone(held);
        async move { held.start().await }
    });
    match starting.await {
        Ok(Start::Started) => Ok(empty(StatusCode::NO_CONTENT)),
        Ok(Start::Already) => Ok(empty(StatusCode::NOT_MODIFIED)),
        Ok(Start::Refused(refusal)) => Err(bad(refusal.message)),
        Err(error) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

/// Answers at once that it listens, and then, whenever that is, with the exit code.
fn wait(held: Arc<Held>, for_next: bool) -> Response<Body> {
    let mut state = held.state.subscribe();
    respond(|mut body: Sender<Bytes>| async move {
        let is_over = |state: &State| match state {
            State::Ended(_) | State::Refused(_) => true,
            State::Created => !for_next,
            State::Starting | State::Running => false,
        };
        let Ok(state) = state.wait_for(is_over).await.map(|state| state.clone()) else { return };
        let told = match state {
            State::Ended(Ended { code: Some(code), .. }) | State::Refused(Refusal { code, .. }) => {
                json!({ "StatusCode": code })
            }
            State::Ended(Ended { code: None, .. }) => {
                json!({ "StatusCode": 0, "Error": { "Message": "nobody saw how it ended" } })
            }
            State::Created | State::Starting | State::Running => json!({ "StatusCode": 0 }),
        };
        let _ = body.send_data(told.to_string().into()).await;
    })
}

async fn kill(held: &Held, signal: &str) -> Answer {
    let signal = Signal::from_str(signal).map_err(|_| bad(format!("{signal} is no signal")))?;
    match held.signal(signal).await {
        true => Ok(empty(StatusCode::NO_CONTENT)),
        false => Err(Refused(StatusCode::CONFLICT, "the command is not running".to_owned())),
    }
}

/// The log on disk from its beginning, or from a moment on, and what is added to it until the command's end. A log
/// that was dropped under its reader breaks off.
fn logs(shim: &Shim, held: Arc<Held>, since: Duration) -> Response<Body> {
    let mut reader = LogReader::open(&shim.folder, since);
    respond(|mut body: Sender<Bytes>| async move {
        let mut buffer = vec![0; HEAD + PIECE];
        let mut news = held.output.news.subscribe();
        loop {
            news.mark_unchanged();
            // Before the look: what is written after it is news.
            let is_over = !matches!(*held.state.borrow(), State::Created | State::Starting | State::Running);
            match reader.next(&mut buffer) {
                Ok(Next::Frame(length)) => {
                    let frame = Bytes::copy_from_slice(&buffer[TIME..TIME + length]);
                    if body.send_data(frame).await.is_err() {
                        return;
                    }
                }
                Ok(Next::Nothing) if is_over => return,
                Ok(Next::Nothing) => {
                    if news.changed().await.is_err() {
                        return;
                    }
                }
                // Half a frame's header is how the agent knows that more should have come.
                Ok(Next::Gap) | Err(_) => {
                    let _ = body.send_data(Bytes::from_static(&[1])).await;
                    return;
                }
            }
        }
    })
}

/// A file of the VM, as an archive of one file; of what is no file, what it is.
fn archive(folder: &Path, path: &Path) -> Answer {
    let missing = |error: io::Error| Refused(StatusCode::NOT_FOUND, error.to_string());
    let link = fs::symlink_metadata(path).map_err(missing)?;
    let (mode, size, target, content) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => (1_u32 << 31, 0, String::new(), Vec::new()),
        Ok(found) if found.is_file() && found.len() <= LONGEST_FILE => {
            let content = read(path).map_err(missing)?;
            // A link of the command's user must not have root read what that user may not.
            let user = fs::metadata(folder.join(WORK)).map_err(missing)?.uid();
            if user != 0 && found.uid() != user && found.mode() & 0o004 == 0 {
                return Err(Refused(
                    StatusCode::FORBIDDEN,
                    "it is not the command's user's to read".to_owned(),
                ));
            }
            (0o644, content.len() as u64, String::new(), content)
        }
        Ok(found) if found.is_file() => (0o644, found.len(), String::new(), Vec::new()),
        Ok(_) => (1 << 25, 0, String::new(), Vec::new()),
        // A link that leads to nothing.
        Err(_) if link.is_symlink() => {
            let target = fs::read_link(path).map_err(missing)?.display().to_string();
            (1 << 27, 0, target, Vec::new())
        }
        Err(error) => return Err(missing(error)),
    };
    let stat = json!({ "name": "file", "size": size, "mode": mode, "mtime": NEVER, "linkTarget": target });
    let mut answer = Response::new(full(tar::of_file(&content)));
    let stat = BASE64_STANDARD.encode(stat.to_string());
    let stat = stat.parse().map_err(|_| bad("the path cannot be told".to_owned()))?;
    answer.headers_mut().insert("X-Docker-Container-Path-Stat", stat);
    Ok(answer)
}

/// What has a file's name and is a pipe by now must not keep the shim waiting.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST_FILE + 1), &mut content)?;
    Ok(content)
}

/// What is remembered of the command, in the Engine's words.
fn happened(shim: &Shim) -> Response<Body> {
    let over = shim.held().is_some_and(|held| matches!(*held.state.borrow(), State::Ended(_)));
    let text = if over { json!({ "Action": "die" }).to_string() } else { String::new() };
    Response::new(full(text.into_bytes()))
}

fn is_called(held: &Held, id: &str) -> bool {
    let record = held.record();
    record.id == id || record.name == id
}

/// An answer whose body comes bit by bit.
fn respond<F: Future<Output = ()> + Send + 'static>(
    write: impl FnOnce(Sender<Bytes>) -> F,
) -> Response<Body> {
    let (sender, channel) = Channel::new(1);
    tokio::spawn(write(sender));
    Response::new(Either::Right(channel))
}

/// Seconds since 1970 with their nanoseconds, `1795428000.000000001`.
fn moment(text: &str) -> Option<Duration> {
    let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
    Some(Duration::new(seconds.parse().ok()?, nanos.parse().ok()?))
}

fn new_id() -> Option<String> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut answer = Response::new(full(value.to_string().into_bytes()));
    *answer.status_mut() = status;
    answer
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(full(Vec::new()));
    *answer.status_mut() = status;
    answer
}

fn full(bytes: Vec<u8>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

fn bad(message: String) -> Refused {
    Refused(StatusCode::BAD_REQUEST, message)
}

fn no_such() -> Refused {
    Refused(StatusCode::NOT_FOUND, "there is no such command".to_owned())
}
