//! What Workflows' `events.*` does for an execution: callback endpoints, and waiting for what comes in there.
//!
//! Nobody outside Google can call this; the emulator that runs a workflow here asks for it by HTTP:
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /events/endpoints` `{execution, method}` | `{url}` |
//! | `POST /events/await` `{url, seconds}` | 200 with the request that came in; 408 if none did |

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::callback::Call;
use crate::google::json as json_response;
use crate::server::{Request, Response, plain};
use crate::unique;

/// Where callbacks are.
const SERVICE: &str = "https://workflowexecutions.googleapis.com/v1";

/// Every endpoint of every execution, with what came in and was not awaited yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: Mutex<BTreeMap<String, VecDeque<Value>>>,
    /// Changes when something comes in.
    news: watch::Sender<()>,
}

impl Events {
    pub(crate) async fn answer(&self, request: &Request) -> Response {
        let asked: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/events/endpoints") => self.create(&asked),
            (&Method::POST, "/events/await") => self.wait_for(&asked).await,
            _ => plain(StatusCode::NOT_FOUND),
        }
    }

    fn create(&self, asked: &Value) -> Response {
        let Some(execution) = asked["execution"].as_str() else { return plain(StatusCode::BAD_REQUEST) };
        let url = format!("{SERVICE}/{execution}/callbacks/{:016x}", unique());
        self.waiting().insert(url.clone(), VecDeque::new());
        json_response(StatusCode::OK, &json!({ "url": url }))
    }

    async fn wait_for(&self, asked: &Value) -> Response {
        let (url, seconds) = (asked["url"].as_str().unwrap_or_default(), asked["seconds"].as_f64());
        let patience = Duration::from_secs_f64(seconds.unwrap_or(43200.0));
        let mut news = self.news.subscribe();
        let come = async {
            loop {
                let Some(request) = self.waiting().get_mut(url).map(VecDeque::pop_front) else {
                    return plain(StatusCode::NOT_FOUND);
                };
                if let Some(request) = request {
                    return json_response(StatusCode::OK, &request);
                }
                news.changed().await.expect("the sender is in self");
            }
        };
        tokio::time::timeout(patience, come).await.unwrap_or_else(|_| plain(StatusCode::REQUEST_TIMEOUT))
    }

    /// Somebody called the endpoint: this is what the workflow finds of it.
    pub(crate) fn push(&self, url: &str, call: &Call) {
        let request = json!({
            "http_request": {
                "body": call.report(),
                "headers": call.headers,
                "method": call.method,
                "query": {},
                "url": call.path,
            },
            "received_time": "2026-11-24 10:00:00.123456789 +0000 UTC",
            "type": "HTTP",
        });
        if let Some(waiting) = self.waiting().get_mut(url) {
            waiting.push_back(request);
        }
        self.news.send_replace(());
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<Value>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
