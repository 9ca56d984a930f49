//! Who is killed first when the VM's memory runs out: the job, and the agent as late as can be. An agent that
//! its own job starves tells nobody how the job ended (cromwell #7864).
//!
//! The scores are the kernel's, from -1000 (never) to 1000 (first). Source: proc_pid_oom_score_adj(5).

use std::{fs, io};

use serde_json::{Map, Value, json};

const THIS_PROCESS: &str = "/proc/self/oom_score_adj";
/// All but never; where that is refused, no sooner than others, if whoever started the agent raised its score.
const AGENT: [i32; 2] = [-900, 0];
const JOB: i32 = 1000;

/// Lowers the score of this process, as far as it may. What it starts from now on has that score too.
pub fn spare_the_agent() {
    if let Err(error) = lower() {
        let why = "this process may not lower its score; `docker run --oom-score-adj` can";
        tracing::debug!(%error, why, "the agent is not spared when memory runs out");
    }
}

fn lower() -> io::Result<()> {
    let now: i32 = fs::read_to_string(THIS_PROCESS)?.trim().parse().map_err(io::Error::other)?;
    let mut lowered = Ok(());
    for score in AGENT.into_iter().filter(|score| *score < now) {
        lowered = fs::write(THIS_PROCESS, score.to_string());
        if lowered.is_ok() {
            break;
        }
    }
    lowered
}

/// Makes the container of a create call's body the first to be killed, unless the command says otherwise.
pub(crate) fn offer_the_job(body: &mut Map<String, Value>) {
    let host = body.entry("HostConfig").or_insert_with(|| json!({}));
    if host["OomScoreAdj"].is_null() {
        host["OomScoreAdj"] = JOB.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_the_last_word_on_its_score() {
        for (host, score) in
            [(json!({}), JOB), (json!({ "OomScoreAdj": 0 }), 0), (json!({ "OomScoreAdj": -500 }), -500)]
        {
            let mut body = Map::from_iter([("HostConfig".to_owned(), host)]);
            offer_the_job(&mut body);
            assert_eq!(body["HostConfig"]["OomScoreAdj"], score);
        }
    }
}
