//! From the text of the attributes to the Engine's create call and the credential's rule: whatever somebody
//! writes there, nothing panics, and what is refused is refused with words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longrun_agent::{
    google::credential,
    job::{Attributes, Order},
};

// Lines `name=value` up to an empty one, then the command.
fuzz_target!(|text: &str| {
    let (lines, command) = text.split_once("\n\n").unwrap_or(("", text));
    let mut attributes: Attributes = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    attributes.entry("callback-url".to_owned()).or_insert_with(|| "https://example.com/".to_owned());
    attributes.insert("docker-command".to_owned(), command.to_owned());

    let files = |path: &str| match path {
        "env" => Ok(b"A=1\n# no\nB".to_vec()),
        "json" => Ok(b"{ \"a\": [1, 2] }".to_vec()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let Ok(order) = Order::read(&attributes, files) else { return };
    let _ = credential::for_callback(&order.callback);
    match order.job {
        Ok(job) => {
            for api in ["1.41", "1.43", "1.52"] {
                let _ = job.command.create_body(api.parse().expect("a version"));
            }
        }
        Err(problems) => assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.is_empty())),
    }
});
