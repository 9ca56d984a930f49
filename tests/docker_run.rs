//! A `docker run` line gives the same container here as with the docker CLI.
//!
//! The CLI itself is the oracle: each line goes through `docker create`, pointed at an Engine that only
//! records, and through our parser. Both create calls must be equal, and where the CLI refuses, we refuse.
//! The lines of `docker_run/lines/` say nothing of what is expected; beside them, lines are generated:
//! 600 of them, or as many as `LONGRUN_DOCKER_LINES` says (CI: 5000), from the seed `LONGRUN_DOCKER_SEED`.
//!
//! Leaves out what becomes of a container; and `docker run` without `-d`, which needs an Engine that runs
//! something. What differs on purpose is a table in here.

#[path = "docker_run/comparison.rs"]
mod comparison;
#[path = "docker_run/flags.rs"]
mod flags;
#[path = "docker_run/generated.rs"]
mod generated;
#[path = "docker_run/oracle.rs"]
mod oracle;

use comparison::{Bench, ours};
use longrun_agent::job::{ContainerCommand, Pull};
use oracle::Verdict;

/// The newest API that CLI 28.2 speaks.
const NEWEST: &str = "1.50";

/// One test for each file of lines, so that they run side by side and a failure names its family.
macro_rules! families {
    ($($test:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check($file, include_str!(concat!("docker_run/lines/", $file, ".txt")));
            }
        )*

        const FAMILIES: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("docker_run/lines/", $file, ".txt")))),*];
    };
}

families! {
    words_are_read_as_the_cli_reads_them: "words",
    quoting_is_a_shells: "quoting",
    plain_values_are_copied_as_the_cli_copies_them: "plain",
    the_environment_and_labels_are_the_clis: "environment",
    the_end_of_a_container_is_the_clis: "restart_and_stop",
    capabilities_namespaces_and_security_options_are_the_clis: "security",
    sysctls_and_ulimits_are_the_clis: "kernel",
    memory_is_the_clis: "memory",
    processors_and_processes_are_the_clis: "processors",
    limits_of_block_devices_are_the_clis: "block_devices",
    log_drivers_and_storage_options_are_the_clis: "logs_and_storage",
    health_checks_are_the_clis: "health",
    networks_are_the_clis: "networks",
    ports_are_the_clis: "ports",
    names_on_the_network_are_the_clis: "names",
    volumes_are_the_clis: "volumes",
    mounts_are_the_clis: "mounts",
    devices_and_gpus_are_the_clis: "devices",
    other_engines_get_what_the_cli_sends_them: "other_engines",
}

/// Lines that `docker create` does not know; these go through `docker run`, which wants `-d` then.
#[test]
fn what_only_docker_run_has_is_the_clis() {
    let mut bench = Bench::new();
    let lines = [
        "-d a",
        "--detach a",
        "--detach=true a b",
        "-dit a",
        "-itd a",
        "-d=1 -e A=1 a",
        "-ditu root a",
        "-dt=false a",
        "-d --sig-proxy a",
        "-d --sig-proxy=false a",
        "-d --sig-proxy=x a",
        "-d --sig-proxy false a",
        "-d --detach-keys ctrl-a a",
        "-d --detach-keys=ctrl-p,ctrl-q a",
        "-d --detach-keys",
        "-d --rm a",
        "-d --rm --restart on-failure a",
        "-d -a stdout a",
        "-d --attach=stdin a",
        "-d --name x --platform linux/arm64 a",
        "-d=x a",
        "--detach= a",
        "-d",
        "-d ''",
        "-d -- a -d",
        "-dx a",
    ];
    report("docker run -d", lines.map(|line| (line, bench.compare(NEWEST, "run", line))));
}

/// An agent is always in the foreground, so these change nothing.
#[test]
fn a_line_in_the_foreground_is_the_line_without_the_clients_flags() {
    let same = [
        ("--detach=false a", "a"),
        ("-d=false -t a", "-t a"),
        ("--sig-proxy a b", "a b"),
        ("--sig-proxy=false -m 1g a", "-m 1g a"),
        ("--detach-keys ctrl-a a", "a"),
        ("--detach-keys='ctrl-p,ctrl-q' -it a", "-it a"),
    ];
    for (line, plain) in same {
        let (Verdict::Created(line_is), Verdict::Created(plain_is)) =
            (ours(line, NEWEST), ours(plain, NEWEST))
        else {
            panic!("{line}: {:?}", ours(line, NEWEST));
        };
        assert_eq!(line_is, plain_is, "{line}");
    }
}

/// What a line says to the client rather than to the Engine.
#[test]
fn what_concerns_the_agent_is_beside_the_body() {
    let no_file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let read = |line: &str| ContainerCommand::parse(&format!("docker run {line}"), no_file).expect(line);
    for (line, pull) in [
        ("a", Pull::Missing),
        ("--pull missing a", Pull::Missing),
        ("--pull= a", Pull::Missing),
        ("--pull always a", Pull::Always),
        ("--pull always --pull never a", Pull::Never),
    ] {
        assert_eq!(read(line).pull, pull, "{line}");
    }
    for (line, removed) in [("a", false), ("--rm a", true), ("--rm=f a", false), ("--rm --rm=0 a", false)] {
        assert_eq!(read(line).remove_volumes, removed, "{line}");
    }
    for (line, terminal) in [("a", false), ("-t a", true), ("-it=0 a", false), ("-it a -t", true)] {
        assert_eq!(read(line).tty, terminal, "{line}");
    }
    for (line, seconds) in
        [("a", None), ("--stop-timeout 0x10 a", Some(16)), ("--stop-timeout=-1 a", Some(-1))]
    {
        assert_eq!(read(line).stop_timeout, seconds, "{line}");
    }
}

/// Where we and the CLI part on purpose: the line, who refuses it, and why.
const DIFFERENCES: &[(&str, Who, &str)] = {
    use Who::{TheCli, We};
    const CLIENTS: &str = "a relative path is the client's, and on a VM there is no client's folder";
    const RESTARTED: &str =
        "the end of each start must be told, so it is not the Engine that starts the job again";
    const OVERFLOW: &str = "Go's conversion overflows without a word, and the Engine gets another number";
    const CID_FILE: &str = "the file would be in the agent's container, where nobody sees it";
    const NO_SHELL: &str = "nothing is expanded where the agent runs, and the Engine finds no such device";
    const NO_PATH: &str = "the Engine refuses it later";
    const OLD_MAC: &str = "an Engine before 1.44 takes the address as the container's own";
    &[
        ("--restart always a", We, RESTARTED),
        ("--restart unless-stopped a", We, RESTARTED),
        ("--restart always:3 a", We, RESTARTED),
        ("--restart on-failure a", We, RESTARTED),
        ("--restart on-failure:3 a", We, RESTARTED),
        ("--rm=false --restart always a", We, RESTARTED),
        ("--use-api-socket a", We, "it hands the client's own credentials to the job, and there are none"),
        ("--cidfile FILES/new-cid a", We, CID_FILE),
        ("--cidfile= a", We, CID_FILE),
        ("-v ./a:/b a", We, CLIENTS),
        ("-v ./a:/b:ro a", We, CLIENTS),
        ("-v .:/b a", We, CLIENTS),
        ("-v ../a:/b a", We, CLIENTS),
        ("-v .a:/b a", We, CLIENTS),
        ("-v : a", We, NO_PATH),
        ("-v :: a", We, NO_PATH),
        ("--mount type=bind,src=./a,dst=/b a", We, CLIENTS),
        ("--mount type=bind,src=.,dst=/b a", We, CLIENTS),
        ("--mount type=bind,src=../a,dst=/b a", We, CLIENTS),
        ("--mount type=volume,src=./a,dst=/b a", We, CLIENTS),
        ("--device '/dev/*' a", We, NO_SHELL),
        ("-m 8192p a", We, OVERFLOW),
        ("-m 9999p a", We, OVERFLOW),
        ("-m 1e19 a", We, OVERFLOW),
        ("--memory-swap 9223372036854775807 a", We, OVERFLOW),
        ("--shm-size 9999p a", We, OVERFLOW),
        ("--cpus 9223372037 a", We, OVERFLOW),
        ("--cpus 1e100 a", We, OVERFLOW),
        ("@1.43 --mac-address 92:d0:c6:0a:29:33 a", TheCli, OLD_MAC),
        ("@1.41 --network foo --mac-address 92:d0:c6:0a:29:33 a", TheCli, OLD_MAC),
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    We,
    TheCli,
}

#[test]
fn where_we_differ_from_the_cli_is_a_table() {
    let oracle = oracle::Oracle::start();
    let mut wrong = Vec::new();
    for (line, who, reason) in DIFFERENCES {
        let versioned = line.strip_prefix('@').and_then(|rest| rest.split_once(' '));
        let (api, text) = versioned.unwrap_or((NEWEST, line));
        let taken = |verdict: &Verdict| matches!(verdict, Verdict::Created(_));
        let (ours, cli) = (ours(&oracle.fill(text), api), oracle.ask(api, "create", text));
        let (we_take, cli_takes) = (taken(&ours), taken(&cli));
        if (we_take, cli_takes) != (*who == Who::TheCli, *who == Who::We) {
            wrong.push(format!(
                "{line}: {who:?} should refuse, since {reason}; we take it: {we_take}, the CLI: {cli_takes}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), DIFFERENCES.len(), wrong.join("\n"));
}

/// A shell would begin a second command; nobody means that.
#[test]
fn a_lines_end_is_a_blank() {
    for (line, plain) in
        [("a\nb", "a b"), ("-e A=1\n\n  a\n", "-e A=1 a"), ("--rm \\\r\n  -t\r\n a", "--rm -t a")]
    {
        let (Verdict::Created(line_is), Verdict::Created(plain_is)) =
            (ours(line, NEWEST), ours(plain, NEWEST))
        else {
            panic!("{line}: {:?}", ours(line, NEWEST));
        };
        assert_eq!(line_is, plain_is, "{line}");
    }
}

/// Generated lines that were read differently once, shrunk, with the seed that found them.
const REGRESSIONS: &[(u64, &str, &str)] = &[
    (2, "1.50", "--dns=::ffff:1.2.3.4 a"),
    (2, "1.50", "\"--platform=x\"\ta"),
    (2, "1.50", "--mount\ttype=volume,src=v,dst=/b,volume-nocopy\ta"),
    (2, "1.50", "--stop-signal= a"),
    (2, "1.43", "--security-opt=systempaths=unconfined  'a'"),
    (2, "1.41", "'--label-file' \"FILES/labels\" a '$A' 'b'"),
    (2, "1.50", "'--cap-add=aéll'  -qu=0 a"),
    (2, "1.41", "--kernel-memory\t1e3 -tq a"),
    (2, "1.50", "--cpus 0x10 a"),
    (1, "1.50", "--health-timeout '-1s' --health-timeout 500ms a"),
    (1, "1.50", "--dns-search :a.b a"),
    (1, "1.50", "'--mount=type=bind,src=/a,dst=/b,ro=false,consistency=cached'  a"),
];

#[test]
fn lines_that_a_seed_found_stay_found() {
    let mut bench = Bench::new();
    report(
        "found by a seed",
        REGRESSIONS.iter().map(|(_, api, line)| (*line, bench.compare(api, "create", line))),
    );
}

#[test]
fn generated_lines_are_read_as_the_cli_reads_them() {
    fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
        let text = std::env::var(variable);
        text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
    }
    let (count, seed) = (number("LONGRUN_DOCKER_LINES", 600), number("LONGRUN_DOCKER_SEED", 1));
    let (found, taken) = generated::differing(count, seed);
    assert!(
        found.is_empty(),
        "{} of {count} generated lines are read differently; LONGRUN_DOCKER_SEED={seed} makes them again:\n{}",
        found.len(),
        found.join("\n")
    );
    assert!(taken * 5 >= count * 2, "the CLI took {taken} of {count}: a line that both refuse says little");
}

#[test]
fn every_flag_of_docker_run_has_lines() {
    let lines: Vec<&str> = FAMILIES.iter().flat_map(|(_, text)| text.lines()).collect();
    for flag in flags::FLAGS {
        let long = format!("--{}", flag.name);
        let names = |line: &&&str| {
            let long_form = line.split(' ').any(|word| word.split('=').next() == Some(&long));
            long_form || flag.short.is_some_and(|short| line.starts_with(&format!("-{short}")))
        };
        let count = lines.iter().filter(names).count();
        assert!(count >= 2, "{long} has {count} lines");
    }
    assert_eq!(flags::FLAGS.len() + flags::CLIENTS.len(), 107, "flags of docker run");
    let rows = lines.iter().filter(|line| !line.starts_with('#')).count();
    assert!(rows > 1000, "{rows}");
}

#[track_caller]
fn check(family: &str, text: &str) {
    let mut bench = Bench::new();
    let mut api = NEWEST;
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        match line.strip_prefix("@ ") {
            Some(version) => api = version,
            None => rows.push((
                format!("{line}   (API {api})"),
                bench.compare(api, "create", &line.replace('¶', "\n")),
            )),
        }
    }
    report(family, rows);
}

/// Fails with all rows that differ.
#[track_caller]
fn report<T: std::fmt::Display>(family: &str, rows: impl IntoIterator<Item = (T, Vec<String>)>) {
    let rows: Vec<_> = rows.into_iter().collect();
    let differing: Vec<_> = rows
        .iter()
        .filter(|(_, differences)| !differences.is_empty())
        .map(|(line, differences)| format!("{line}\n    {}", differences.join("\n    ")))
        .collect();
    assert!(
        differing.is_empty(),
        "{family}: {} of {} lines differ:\n{}",
        differing.len(),
        rows.len(),
        differing.join("\n")
    );
}
