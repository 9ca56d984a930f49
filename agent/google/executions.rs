//! workflowexecutions.googleapis.com: the execution of the workflow that waits behind a callback.
//!
//! It is over if its state says so by name, or if it is not there, seen twice. Whatever else comes is no answer:
//! what follows from one cannot be undone. Leaves out what is done about it.
//!
//! Source: FACTS, "Cloud Workflows callbacks";
//! cloud.google.com/workflows/docs/reference/executions/rest/v1/projects.locations.workflows.executions.

use std::time::Duration;

use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::sleep;

use super::{Api, ApiError, credential};
use crate::{backoff, http};

/// Between a first 404 and the second look.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// The execution behind a callback.
#[derive(Clone)]
pub struct Execution {
    api: Api,
    /// Where the service has it.
    url: Url,
    /// The last part of the callback's name.
    callback: String,
}

/// How an execution stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or waits for its turn.
    Active,
    /// It is over, and how: the state's name, such as `CANCELLED`, or that it is not there.
    Over(String),
    /// The service account may not see it.
    Denied,
    /// Nobody knows, and why.
    Unknown(String),
}

impl Execution {
    /// The execution behind a callback's address; `None` if that is not a workflow's.
    pub fn behind(callback: &Url, api: Api) -> Option<Self> {
        let is_service = callback.host_str()?.starts_with("workflowexecutions.");
        let parts: Vec<_> = callback.path_segments()?.collect();
        let [_, "projects", _, "locations", _, "workflows", _, "executions", _, "callbacks", id] = parts[..]
        else {
            return None;
        };
        if !is_service || !credential::is_google_api(callback) || id.is_empty() {
            return None;
        }
        let mut url = callback.clone();
        url.set_path(&parts[..9].join("/"));
        url.set_query(None);
        url.set_fragment(None);
        Some(Self { api, url, callback: id.to_owned() })
    }

    /// The project of the workflow, by its id or its number.
    pub fn project(&self) -> &str {
        self.url.path_segments().and_then(|mut parts| parts.nth(2)).unwrap_or_default()
    }

    /// How it stands. One that is not there is looked for again before that is believed.
    pub async fn state(&self) -> State {
        match self.look().await {
            Err(error) if is_absent(&error) => sleep(SECOND_LOOK).await,
            seen => return judge(seen),
        }
        judge(self.look().await)
    }

    async fn look(&self) -> Result<Answer, ApiError> {
        let mut url = self.url.clone();
        url.set_query(Some("view=BASIC"));
        self.api.ask(Method::GET, &url).await
    }

    /// Whether a payload with these words lies in the callback's slot. Once the workflow has taken it, or if
    /// the account may not look, nobody can tell: then it is false.
    pub async fn holds(&self, words: &str) -> bool {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/callbacks", self.url.path()));
        match self.api.ask::<Callbacks>(Method::GET, &url).await {
            Ok(Callbacks { callbacks }) => callbacks.iter().any(|callback| {
                callback.name.rsplit('/').next() == Some(&self.callback)
                    && callback.available_payloads.iter().any(|payload| payload.contains(words))
            }),
            Err(error) => {
                tracing::debug!(error = http::chain(&error), "what the callback holds is not known");
                false
            }
        }
    }

    /// Looks every now and then, some `every` apart, until it is over, and answers how it ended; `None` if the
    /// account may not look. Outlives every outage of the service; drop it to stop watching.
    pub async fn watch(&self, every: Duration) -> Option<String> {
        for delay in backoff::delays(every * 2 / 3, every * 4 / 3) {
            sleep(delay).await;
            match self.state().await {
                State::Active => {}
                State::Over(how) => return Some(how),
                State::Denied => return None,
                State::Unknown(why) => tracing::debug!(why, "whether the workflow waits is not known"),
            }
        }
        None
    }
}

fn is_absent(error: &ApiError) -> bool {
    error.status() == Some(StatusCode::NOT_FOUND)
}

/// What is to be believed of an answer. A state that this agent does not know may be one that passes.
fn judge(seen: Result<Answer, ApiError>) -> State {
    match seen {
        Ok(Answer { state }) => match state.as_str() {
            "ACTIVE" | "QUEUED" => State::Active,
            "SUCCEEDED" | "FAILED" | "CANCELLED" => State::Over(state),
            _ => State::Unknown(format!("its state is {state}")),
        },
        Err(error) if is_absent(&error) => State::Over("not there any more".to_owned()),
        Err(error) if error.status() == Some(StatusCode::FORBIDDEN) => State::Denied,
        Err(error) => State::Unknown(http::chain(&error)),
    }
}

#[derive(Deserialize)]
struct Answer {
    state: String,
}

/// The first page holds a hundred callbacks, in the order of their ids; an agent's workflow has one at a time.
#[derive(Deserialize)]
struct Callbacks {
    #[serde(default)]
    callbacks: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    name: String,
    #[serde(default)]
    available_payloads: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::google::{Outside, Tokens};

    const EXECUTION: &str =
        "https://workflowexecutions.googleapis.com/v1/projects/p/locations/l/workflows/w/executions/e";

    #[test]
    fn the_execution_is_the_one_that_the_callbacks_address_names() {
        let execution = behind(&format!("{EXECUTION}/callbacks/c")).unwrap();
        assert_eq!((execution.url.as_str(), execution.project()), (EXECUTION, "p"));
        assert_eq!(execution.callback, "c");
        assert_eq!(behind(&format!("{EXECUTION}/callbacks/c?x=1#y")).unwrap().url.as_str(), EXECUTION);
    }

    #[test]
    fn behind_any_other_address_there_is_no_execution() {
        for url in [
            EXECUTION.to_owned(),
            format!("{EXECUTION}/callbacks"),
            format!("{EXECUTION}/callbacks/"),
            format!("{EXECUTION}/callbacks/c/d"),
            format!("{EXECUTION}/callbacks/c").replace("https", "http"),
            format!("{EXECUTION}/callbacks/c").replace("googleapis.com", "googleapis.com.evil.example"),
            format!("{EXECUTION}/callbacks/c").replace("workflowexecutions", "storage"),
            "https://example.com/callbacks/c".to_owned(),
        ] {
            assert!(behind(&url).is_none(), "{url}");
        }
    }

    #[test]
    fn an_execution_is_over_when_its_state_says_so_by_name_and_never_by_doubt() {
        let state = |state: &str| judge(Ok(Answer { state: state.to_owned() }));
        for over in ["SUCCEEDED", "FAILED", "CANCELLED"] {
            assert_eq!(state(over), State::Over(over.to_owned()));
        }
        assert_eq!((state("ACTIVE"), state("QUEUED")), (State::Active, State::Active));
        for doubtful in ["UNAVAILABLE", "STATE_UNSPECIFIED", "PAUSED", "cancelled", ""] {
            assert!(matches!(state(doubtful), State::Unknown(_)), "{doubtful}");
        }
    }

    #[test]
    fn of_refusals_only_googles_own_403_and_404_are_believed() {
        let status = |status| StatusCode::from_u16(status).unwrap();
        let refused = |code| {
            judge(Err(ApiError::Refused {
                host: "h".to_owned(),
                status: status(code),
                code: String::new(),
                message: String::new(),
                retry_after: None,
            }))
        };
        let foreign = ApiError::Undecodable { host: "h".to_owned(), why: "a proxy's page".to_owned() };
        assert_eq!(refused(403), State::Denied);
        assert_eq!(refused(404), State::Over("not there any more".to_owned()));
        for code in [400, 401, 409, 429, 500, 503] {
            assert!(matches!(refused(code), State::Unknown(_)), "{code}");
        }
        assert!(matches!(judge(Err(foreign)), State::Unknown(_)));
    }

    fn behind(url: &str) -> Option<Execution> {
        let api = Api::new(Outside::new(None), Arc::new(Tokens::of_desk()));
        Execution::behind(&url.parse().unwrap(), api)
    }
}
