//! Delivery: the report goes to the callback until it is accepted, or until there is no hope.
//!
//! ```text
//! authorise ──▶ send ──▶ classify ──▶ Accepted: done
//!     ▲                     │  Retry, RetrySlowly, Renew (a fresh token), Shrink (once without the log tail)
//!     └──── backoff ◀───────┘  Gone: nobody waits any more
//! ```
//!
//! A try whose answer was lost, or an agent that was killed at it, may have been accepted. A report that still lies
//! in the callback's slot was, and is not sent again. Once the workflow has taken it there is no trace of it: then
//! it is sent once more, and whoever awaits the same callback again can tell by its `runId`.
//!
//! Leaves out what the report says.

use std::{pin::pin, time::Duration};

use gcp_auth::TokenProvider;
use reqwest::{Method, StatusCode};
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    backoff, fail_point,
    google::{
        Api, SCOPES,
        credential::{self, Credential},
        executions::{Execution, State},
    },
    http,
    job::Callback,
    report::Report,
    supervise::Stop,
};

/// One try, from connecting to the answer's head.
const TRY: Duration = Duration::from_secs(30);
/// For a try that is under way when the agent is told to stop: Docker kills it ten seconds after.
const LAST_TRY: Duration = Duration::from_secs(5);
/// The delays of most failures.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// The shortest delay after a refusal that people must mend: IAM takes minutes to spread a new role.
const SLOW_DELAY: Duration = Duration::from_secs(30);
/// A Retry-After is honoured up to here; a server's clock may be wrong.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How often a 404 is heard where nobody can say whether the execution is over: some minutes.
const MOST_DOUBTS: u32 = 5;

/// Why the report was not accepted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Undelivered {
    /// The execution is over, or it never was.
    #[error(
        "the callback answered 404, and the workflow's execution is over or cannot be seen: nobody waits for the report"
    )]
    Gone,
    /// The deadline passed.
    #[error("the report was not accepted in {}; the last try: {last}", humantime::format_duration(*.after))]
    Expired {
        /// How long it was tried.
        after: Duration,
        /// What the last try brought.
        last: String,
    },
    /// The agent was told to stop, and one more try brought nothing.
    #[error("the agent was told to stop before the report was accepted; the last try: {last}")]
    Stopped {
        /// What the last try brought.
        last: String,
    },
}

/// What an answer means for the next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// Again, with growing delays.
    Retry,
    /// Again, but not soon.
    RetrySlowly,
    /// Again with a fresh token.
    Renew,
    /// Again without the log tail, which may be what is refused.
    Shrink,
    /// Again, but not soon, and not often: the execution may be over.
    Doubt,
    Gone,
}

/// Whom to tell.
#[derive(Clone, Copy)]
pub(crate) struct Recipient<'a> {
    pub(crate) callback: &'a Callback,
    pub(crate) credential: Credential,
    /// The execution behind the callback, if it is a workflow's.
    pub(crate) execution: Option<&'a Execution>,
}

/// How long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within {
    /// From the end of the job on.
    pub(crate) whole: Duration,
    /// What is spent of it.
    pub(crate) spent: Duration,
    /// Whether an agent before this one may have tried.
    pub(crate) tried: bool,
}

/// What was refused so far, by which a refusal may come to mean something else.
#[derive(Debug, Default)]
struct Refused {
    shrunk: bool,
    doubts: u32,
}

impl Refused {
    fn weigh(&mut self, answer: Answer) -> Answer {
        match answer {
            Answer::Shrink if std::mem::replace(&mut self.shrunk, true) => Answer::RetrySlowly,
            Answer::Doubt => {
                self.doubts += 1;
                if self.doubts < MOST_DOUBTS { Answer::Doubt } else { Answer::Gone }
            }
            answer => answer,
        }
    }
}

/// Tells the callback. Even where there is no time left it is tried once. `failed` hears of each try that was not
/// accepted.
pub(crate) async fn deliver(
    to: Recipient<'_>,
    report: &Report,
    api: &Api,
    within: Within,
    stop: &mut Stop,
    mut failed: impl AsyncFnMut(&str),
) -> Result<(), Undelivered> {
    let body = report.body();
    let mut sender = Sender { to, report, api, body, unsure: within.tried };
    let deadline = Instant::now() + within.whole.saturating_sub(within.spent);
    let mut delays = backoff::delays(FIRST_DELAY, LONGEST_DELAY);
    let mut slow_delays = backoff::delays(SLOW_DELAY, LONGEST_DELAY);
    let (mut refused, mut stopping) = (Refused::default(), false);
    loop {
        let tried = sender.try_once(deadline, stop, &mut stopping).await;
        let answer = match refused.weigh(tried.answer) {
            Answer::Accepted => return Ok(()),
            Answer::Gone => {
                tracing::warn!(error = tried.what, "the report is given up");
                return Err(Undelivered::Gone);
            }
            answer => answer,
        };
        sender.unsure |= tried.unanswered;
        failed(&tried.what).await;
        tracing::warn!(error = tried.what, "the report was not accepted yet");
        if stopping {
            return Err(Undelivered::Stopped { last: tried.what });
        }
        match answer {
            Answer::Renew => api.tokens.drop_refused().await,
            Answer::Shrink => sender.body = report.body_without_tail(),
            _ => {}
        }
        let delay = match answer {
            Answer::Shrink => Duration::ZERO,
            Answer::RetrySlowly | Answer::Doubt => slow_delays.next().unwrap_or(LONGEST_DELAY),
            Answer::Accepted | Answer::Gone | Answer::Retry | Answer::Renew => {
                delays.next().unwrap_or(LONGEST_DELAY)
            }
        };
        let next = Instant::now() + tried.retry_after.unwrap_or(delay).max(delay);
        if Instant::now() >= deadline {
            return Err(Undelivered::Expired { after: within.whole, last: tried.what });
        }
        tokio::select! {
            // The last try is made at the deadline, not a delay before it.
            () = sleep_until(next.min(deadline)) => {}
            () = stop.asked_by_hand() => stopping = true,
        }
    }
}

struct Sender<'a> {
    to: Recipient<'a>,
    report: &'a Report,
    api: &'a Api,
    body: Vec<u8>,
    /// Whether a try may have been accepted without anybody knowing.
    unsure: bool,
}

/// What one try brought.
struct Tried {
    answer: Answer,
    retry_after: Option<Duration>,
    /// Whether the report may have arrived nevertheless.
    unanswered: bool,
    /// For people; never holds the token, nor the callback's address, whose path is a capability.
    what: String,
}

impl Tried {
    fn retry(what: String) -> Self {
        Self { answer: Answer::Retry, retry_after: None, unanswered: false, what }
    }

    /// A 404, with what the execution's state makes of it. Of one that is active the callback may yet appear, or
    /// its address is wrong and for people to mend.
    fn with(self, state: State) -> Self {
        let (answer, why) = match state {
            State::Active => (Answer::RetrySlowly, "although its execution is active".to_owned()),
            State::Over(how) => (Answer::Gone, format!("its execution is {how}")),
            State::Denied => (Answer::Doubt, "whether its execution is over may not be seen".to_owned()),
            State::Unknown(why) => {
                (Answer::Doubt, format!("whether its execution is over is not known: {why}"))
            }
        };
        Self { answer, what: format!("{}; {why}", self.what), ..self }
    }
}

impl Sender<'_> {
    /// One try. The one that is under way when the agent is told to stop is the last one, and it has not long.
    async fn try_once(&self, deadline: Instant, stop: &mut Stop, stopping: &mut bool) -> Tried {
        let mut trying = pin!(self.send(deadline));
        let told_before = *stopping;
        tokio::select! {
            tried = &mut trying => return tried,
            () = async { if !told_before { stop.asked_by_hand().await } } => *stopping = true,
        }
        timeout(LAST_TRY, trying).await.unwrap_or_else(|_| Tried::retry("no answer".to_owned()))
    }

    async fn send(&self, deadline: Instant) -> Tried {
        if self.unsure && self.is_in_the_slot().await {
            tracing::info!("the callback holds the report already");
            return Tried { answer: Answer::Accepted, ..Tried::retry(String::new()) };
        }
        let token = match self.token().await {
            Ok(token) => token,
            Err(error) => return Tried::retry(http::chain(&error)),
        };
        let mut request = self.request();
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        // A try that begins at the deadline still has its second.
        let left = deadline.saturating_duration_since(Instant::now());
        fail_point::pass(format_args!("callback: to be called"));
        let response = match request.timeout(left.clamp(Duration::from_secs(1), TRY)).send().await {
            Ok(response) => response,
            Err(error) => {
                let unanswered = !error.is_connect();
                return Tried { unanswered, ..Tried::retry(http::chain(&error.without_url())) };
            }
        };
        fail_point::pass(format_args!("callback: answered"));
        let status = response.status();
        let tried = Tried {
            answer: classify(status, credential::is_google_api(&self.to.callback.url)),
            retry_after: http::retry_after(response.headers(), LONGEST_RETRY_AFTER),
            unanswered: false,
            what: format!("the callback answered {status}"),
        };
        match (tried.answer, self.to.execution) {
            (Answer::Doubt, Some(execution)) => tried.with(execution.state().await),
            _ => tried,
        }
    }

    async fn is_in_the_slot(&self) -> bool {
        match self.to.execution {
            Some(execution) => execution.holds(&self.report.run_id).await,
            None => false,
        }
    }

    /// The report, in the body and, for verbs that have none, in headers.
    fn request(&self) -> reqwest::RequestBuilder {
        let (callback, report) = (self.to.callback, self.report);
        let word = |value: &dyn std::fmt::Debug| format!("{value:?}");
        let request = self
            .api
            .outside
            .request(callback.method.clone(), &callback.url)
            .header("Idempotency-Key", &report.run_id)
            .header("Longrun-Run-Id", &report.run_id)
            .header("Longrun-Outcome", word(&report.outcome))
            .header("Longrun-Reason", word(&report.reason));
        let request = match report.exit_code {
            Some(code) => request.header("Longrun-Exit-Code", code.to_string()),
            None => request,
        };
        match callback.method {
            Method::GET | Method::HEAD => request,
            _ => request.header("Content-Type", "application/json").body(self.body.clone()),
        }
    }

    async fn token(&self) -> Result<Option<String>, gcp_auth::Error> {
        match self.to.credential {
            Credential::None => Ok(None),
            Credential::AccessToken => {
                self.api.tokens.token(SCOPES).await.map(|token| Some(token.as_str().to_owned()))
            }
            Credential::IdentityToken => {
                self.api.tokens.identity(&credential::audience(&self.to.callback.url)).await.map(Some)
            }
        }
    }
}

/// What a status means. `google` is whether the callback is Google's own: a 404 of somebody else's server may
/// be a deployment under way.
fn classify(status: StatusCode, google: bool) -> Answer {
    match status.as_u16() {
        200..=299 => Answer::Accepted,
        400 | 413 => Answer::Shrink,
        401 => Answer::Renew,
        404 if google => Answer::Doubt,
        // A slot that is full (FACTS), and what passes by itself.
        408 | 425 | 429 | 500..=599 => Answer::Retry,
        // 403 waits for IAM; a redirect is not followed, and every other refusal is for people to mend.
        _ => Answer::RetrySlowly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::{Accepted, Doubt, Gone, Renew, Retry, RetrySlowly, Shrink};

    #[test]
    fn every_status_has_its_answer() {
        for (statuses, google, elsewhere) in [
            (&[200, 201, 202, 204][..], Accepted, Accepted),
            (&[400, 413], Shrink, Shrink),
            (&[401], Renew, Renew),
            (&[403, 405, 410, 415], RetrySlowly, RetrySlowly),
            (&[404], Doubt, RetrySlowly),
            (&[408, 425, 429, 500, 502, 503, 504], Retry, Retry),
            (&[301, 302, 304, 307, 308], RetrySlowly, RetrySlowly),
        ] {
            for status in statuses {
                let status = StatusCode::from_u16(*status).unwrap();
                assert_eq!(
                    (classify(status, true), classify(status, false)),
                    (google, elsewhere),
                    "{status}"
                );
            }
        }
    }

    #[test]
    fn a_404_means_what_the_executions_state_makes_of_it() {
        let not_found = || Tried { answer: Doubt, ..Tried::retry("404".to_owned()) };
        for (state, expected) in [
            (State::Active, RetrySlowly),
            (State::Over("CANCELLED".to_owned()), Gone),
            (State::Denied, Doubt),
            (State::Unknown("away".to_owned()), Doubt),
        ] {
            assert_eq!(not_found().with(state.clone()).answer, expected, "{state:?}");
        }
    }

    #[test]
    fn a_doubt_is_believed_when_it_was_heard_often_enough() {
        let mut refused = Refused::default();
        let heard: Vec<_> = (0..MOST_DOUBTS).map(|_| refused.weigh(Doubt)).collect();
        assert_eq!(heard, [Doubt, Doubt, Doubt, Doubt, Gone]);
    }

    #[test]
    fn the_report_is_shrunk_once() {
        let mut refused = Refused::default();
        assert_eq!([Shrink, Shrink].map(|answer| refused.weigh(answer)), [Shrink, RetrySlowly]);
        assert_eq!(refused.weigh(Retry), Retry);
    }
}
