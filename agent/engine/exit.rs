//! A container's end, from the first word that the Engine has of it.
//!
//! Up to Docker 20.10 at least a wait is answered once the container's network and disk are taken down, and so is an
//! inspect: 40 to 60 ms after the end, under the container's lock; the events tell the end before that (FACTS). Newer
//! Engines tell it after the wait, and there the wait is what counts. The events are believed where a job succeeded,
//! of which there is nothing more to be asked; whether memory ran out of one that failed may be known later than its
//! end.

use std::{
    future::{pending, ready},
    time::{Duration, SystemTime},
};

use reqwest::{Method, Response};
use serde::Deserialize;
use tokio::{join, task::yield_now};

use super::{Container, ContainerState, EngineError, QUICK, call};

/// An event of a container is a few hundred bytes; labels make it longer.
const LONGEST_EVENT: usize = 256 << 10;
/// For the Engine to begin to tell its events, which the start waits for; without them the end is told a moment later.
const NEWS: Duration = Duration::from_secs(2);

/// The next end of a container, asked for and not yet told.
#[derive(Debug)]
pub struct Exit {
    waited: Response,
    /// `None` where the Engine did not give them, or the container ran before.
    news: Option<News>,
}

/// A container's end.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i64,
    /// When it lived, if it succeeded and the Engine's events told it first.
    pub lifetime: Option<Lifetime>,
    /// Who told it.
    pub teller: Teller,
}

/// The Engine that told a container's end, by its news of it, if there are any.
#[derive(Debug)]
pub struct Teller(Option<News>);

/// When a container lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From here,
    pub started_at: SystemTime,
    /// to here.
    pub finished_at: SystemTime,
}

impl Container {
    /// Asks for the container's next end; to be called before the start. The Engine sends the head of its
    /// answer once it listens, so nothing is missed after this returns.
    pub async fn next_exit(&self) -> Result<Exit, EngineError> {
        let (waited, news) = join!(self.wait("next-exit"), self.news());
        let news = news.inspect_err(|error| tracing::debug!(%error, "the Engine tells no events"));
        Ok(Exit { waited: waited?, news: news.ok() })
    }

    /// Asks for the end of a container that was started before: answered at once if it has ended, where
    /// [`Self::next_exit`] would never be (FACTS).
    pub async fn not_running(&self) -> Result<Exit, EngineError> {
        Ok(Exit { waited: self.wait("not-running").await?, news: None })
    }

    async fn wait(&self, condition: &str) -> Result<Response, EngineError> {
        let request = self.request(Method::POST, "/wait", &[("condition", condition)]);
        call("waiting for the container", QUICK, request).await
    }

    async fn news(&self) -> Result<News, EngineError> {
        let filters = serde_json::json!({ "container": [self.id], "event": ["start", "die"] }).to_string();
        let request = self.engine.request(Method::GET, "/events", &[("filters", &filters)]);
        let answer = call("listening to the container's events", NEWS, request).await?;
        Ok(News { container: self.id.clone(), answer, unread: Vec::new() })
    }
}

impl Exit {
    /// The exit code, whenever that is. An error means that the connection broke, or that the Engine could not
    /// tell: the container is to be inspected then.
    pub async fn code(self) -> Result<Ended, EngineError> {
        let Self { waited, mut news } = self;
        let (code, lifetime) = tokio::select! {
            biased;
            code = code_of(waited) => (code?, None),
            lifetime = success(&mut news) => (0, Some(lifetime)),
        };
        Ok(Ended { code, lifetime, teller: Teller(news) })
    }
}

/// When the container lived, once it succeeded. News that end, or cannot be used, are dropped.
async fn success(news: &mut Option<News>) -> Lifetime {
    if let Some(open) = news {
        match open.success().await {
            Ok(Some(lifetime)) => return lifetime,
            Ok(None) => {}
            Err(NoNews) => *news = None,
        }
    }
    pending().await
}

impl Teller {
    /// Nobody in particular: an Engine that was asked.
    pub const UNKNOWN: Self = Self(None);

    /// Whether that Engine is still there: it answers a new connection, as one that is going does not, and the one of
    /// its news is open, as that of one that was followed by another is not. Without news nobody knows, and it is.
    pub async fn is_there(&mut self, container: &Container) -> bool {
        if !container.engine_answers().await {
            return false;
        }
        let Self(Some(news)) = self else { return true };
        // The connection has a task of its own, which has its turn.
        yield_now().await;
        loop {
            tokio::select! {
                biased;
                chunk = news.answer.chunk() => match chunk {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return false,
                },
                () = ready(()) => return true,
            }
        }
    }
}

async fn code_of(waited: Response) -> Result<i64, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Waited {
        status_code: i64,
        #[serde(default)]
        error: Option<WaitError>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct WaitError {
        message: String,
    }
    let doing = "waiting for the container";
    let body = waited.bytes().await.map_err(|source| EngineError::Unreachable { doing, source })?;
    let undecodable = |why| EngineError::Undecodable { doing, why };
    let waited: Waited = serde_json::from_slice(&body).map_err(|error| undecodable(error.to_string()))?;
    match waited.error.filter(|error| !error.message.is_empty()) {
        Some(error) => Err(undecodable(error.message)),
        None if (0..=255).contains(&waited.status_code) => Ok(waited.status_code),
        None => Err(undecodable(format!("the exit code {} is none", waited.status_code))),
    }
}

/// The container's start and end as the Engine's events tell them.
#[derive(Debug)]
struct News {
    container: String,
    answer: Response,
    unread: Vec<u8>,
}

/// What happened, in the Engine's words.
#[derive(Deserialize)]
struct Happened {
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    #[serde(rename = "timeNano")]
    nanoseconds: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    attributes: Attributes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    exit_code: Option<String>,
}

/// The news are over, or are no news of the container.
struct NoNews;

impl News {
    /// When the container lived, once it succeeded; `None` if it failed, or that is not to be learnt here.
    async fn success(&mut self) -> Result<Option<Lifetime>, NoNews> {
        let mut started_at = None;
        loop {
            let event = self.next().await.ok_or(NoNews)?;
            let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(event.nanoseconds);
            match (event.action.as_str(), event.actor.attributes.exit_code.as_deref()) {
                _ if event.actor.id != self.container => return Err(NoNews),
                // The Engine lays the container's labels over an event's own attributes (seen on 20.10): a start has
                // no exit code but by a label, which then hides that of the end.
                ("start", None) => started_at = Some(at),
                ("die", Some("0")) => {
                    let lifetime = |start| Lifetime { started_at: start, finished_at: at.max(start) };
                    return Ok(started_at.map(lifetime));
                }
                _ => return Ok(None),
            }
        }
    }

    /// The next event, a line each.
    async fn next(&mut self) -> Option<Happened> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let event = serde_json::from_slice(&self.unread[..end]).ok();
                self.unread.drain(..=end);
                return event;
            }
            let chunk = self.answer.chunk().await.ok()??;
            self.unread.extend_from_slice(&chunk);
            if self.unread.len() > LONGEST_EVENT {
                return None;
            }
        }
    }
}

impl From<Lifetime> for ContainerState {
    /// The state of a container that succeeded.
    fn from(Lifetime { started_at, finished_at }: Lifetime) -> Self {
        Self {
            running: false,
            exit_code: 0,
            oom_killed: false,
            started_at: Some(started_at),
            finished_at: Some(finished_at),
            left_behind: None,
            survivors: 0,
            unseen: false,
        }
    }
}
