//! The job: its words, on this machine and as the first process of a container.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use sandbox::job;

#[test]
fn each_word_does_what_it_says() {
    check(&["print", "a b", "write", "c", "print", "d"], "a b\ncd\n", "", 0);
    check(&["eprint", "oh", "print", "ah"], "ah\n", "oh\n", 0);
    check(&["env", "NAME", "env", "ABSENT"], "NAME=a b\nABSENT unset\n", "", 0);
    check(&["want", "NAME", "a b", "drip", "NAME", "1", "drip", "ABSENT", "1"], "a b", "", 0);
    check(&["want", "NAME", "a c", "print", "never"], "", "", 1);
    check(&["want", "ABSENT", ""], "", "", 1);
    check(&["args", "exit", "a b", "\"", ""], "\"exit\"\n\"a b\"\n\"\\\"\"\n\"\"\n", "", 0);
    check(&["cwd"], "/\n", "", 0);
    check(&["tty"], "no terminal\n", "", 0);
    check(&["stdin"], "5\n", "", 0);
    check(&["lines", "3", "5", "lines", "1", "1"], "1 xxx\n2 xxx\n3 xxx\n1\n", "", 0);
    check(&["lines", "10", "3"], "1 x\n2 x\n3 x\n4 x\n5 x\n6 x\n7 x\n8 x\n9 x\n10 \n", "", 0);
    check(&["lines", "2", "0"], "\n\n", "", 0);
    check(&["bytes", "4", "bytes", "0"], "xxxx\n\n", "", 0);
    check(&["bytes", "65537"], &("x".repeat(65537) + "\n"), "", 0);
    check(&["pause", "1", "exit", "3", "print", "never"], "", "", 3);
    check(&["raise", "10"], "", "", 128 + 10);
    check(&["raise", "15"], "", "", 128 + 15);
    check(&["print", "before", "crash", "print", "never"], "before\n", "", 128 + 11);
}

#[test]
fn a_file_that_was_written_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("result.json");
    let path = path.to_str().expect("text");
    check(&["file", path, "{}\n", "cat", path], "{}\n", "", 0);
}

#[test]
fn a_file_that_is_not_there_yet_is_awaited() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("go");
    let words = ["print", "before", "await", path.to_str().expect("text"), "exit", "3"];
    let mut job = program(&words).stdout(Stdio::piped()).spawn().expect("it runs");
    first_line(&mut job);
    assert_eq!(job.try_wait().expect("a job"), None);
    std::fs::write(path, "").expect("a file");
    assert_eq!(job.wait().expect("an end").code(), Some(3));
}

#[test]
fn what_it_does_once_it_does_not_do_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("failed");
    let words = ["once", path.to_str().expect("text"), "3", "print", "again"];
    check(&words, "", "", 3);
    check(&words, "again\n", "", 0);
}

#[test]
fn a_word_it_does_not_know_is_a_usage_error() {
    for words in [&["dance"][..], &[], &["print"], &["exit", "soon"], &["lines", "1"]] {
        let output = program(words).output().expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: job WORD"), "{words:?}");
    }
}

#[test]
fn an_output_that_nobody_reads_ends_it() {
    let mut job =
        program(&["print", "x", "lines", "1000000", "100"]).stdout(Stdio::piped()).spawn().expect("it runs");
    first_line(&mut job);
    drop(job.stdout.take());
    assert_eq!(job.wait().expect("an end").code(), Some(74));
}

#[test]
fn the_demo_says_something_on_both_streams_and_ends_as_told() {
    let start = |words: &[&str]| program(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    for (job, code) in [(start(&["demo"]), 0), (start(&["demo", "5"]), 5)] {
        let output = job.and_then(Child::wait_with_output).expect("it runs");
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.iter().filter(|byte| **byte == b'\n').count() > 3);
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_image_holds_what_a_job_may_look_for() {
    let outcome = docker(
        &["--user", "nobody"],
        &["id", "cwd", "file", "/tmp/a", "ok\n", "cat", "/tmp/a", "env", "PATH"],
    );
    assert_eq!(outcome, ("65534:65534\n/\nok\nPATH=/bin\n".to_owned(), 0));
    assert_eq!(docker(&["--entrypoint", "job"], &["print", "found"]), ("found\n".to_owned(), 0));
    assert_eq!(docker(&["-t"], &["tty"]), ("a terminal\r\n".to_owned(), 0));
}

#[test]
fn the_image_is_there_whoever_makes_it_first() {
    let names = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| job::image().expect("an image"))).collect();
        makers.into_iter().map(|maker| maker.join().expect("a name")).collect::<Vec<_>>()
    });
    assert!(
        names.iter().all(|name| *name == names[0] && name.starts_with("longrun-sandbox-job:")),
        "{names:?}"
    );
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let error = job::image_on("unix:///nowhere/docker.sock").expect_err("no Engine").to_string();
    assert!(error.contains("/nowhere/docker.sock"), "{error}");
}

#[test]
fn the_first_process_of_a_container_can_crash_and_be_killed_for_memory() {
    assert_eq!(docker(&[], &["crash"]).1, 139);
    assert_eq!(docker(&["--memory", "32m", "--memory-swap", "32m"], &["hog"]).1, 137);
    let (text, code) = docker(&["--memory", "32m", "--memory-swap", "32m"], &["fork-hog", "exit", "4"]);
    assert_eq!((text.as_str(), code), ("the child ended: signal: 9 (SIGKILL)\n", 4));
}

#[test]
fn the_first_process_of_a_container_ends_with_a_signal_unless_it_ignores_it() {
    let started = ["print", "started", "wait"];
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let job = container(&[], &started);
        job.signal(signal);
        assert_eq!(job.end(), (String::new(), code));
    }
    let mut job = container(&[], &["ignore-term", "print", "started", "wait"]);
    job.signal("TERM");
    assert_eq!(job.line(), "ignored SIGTERM\n");
    job.signal("KILL");
    assert_eq!(job.end(), (String::new(), 137));
    let job = container(&[], &["exit-on-term", "7", "print", "started", "wait"]);
    job.signal("TERM");
    assert_eq!(job.end(), (String::new(), 7));
}

/// Runs the words on this machine, in `/`, with NAME in the environment and five bytes to read.
#[track_caller]
fn check(words: &[&str], stdout: &str, stderr: &str, code: i32) {
    let mut job = program(words);
    job.current_dir("/").env_clear().env("NAME", "a b");
    job.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut job = job.spawn().expect("it runs");
    // A job that does not read may be gone before this.
    let _ = job.stdin.take().expect("a pipe").write_all(b"12345");
    let Output { status, stdout: out, stderr: err } = job.wait_with_output().expect("an end");
    let status = status.code().or(status.signal().map(|signal| 128 + signal));
    let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    assert_eq!((&*out, &*err, status), (stdout, stderr, Some(code)), "{words:?}");
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("OUT_DIR"), "/job"));
    command.args(words);
    command
}

/// Runs the words in a container to their end: what it wrote on stdout, and its exit code.
fn docker(options: &[&str], words: &[&str]) -> (String, i32) {
    let image = job::image().expect("an image");
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--network", "none"]).args(options).arg(image).args(words);
    let output = command.output().expect("docker runs");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().expect("an exit code"))
}

/// A container that has printed `started`.
struct Container {
    name: String,
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

fn container(options: &[&str], words: &[&str]) -> Container {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let name = format!("sandbox-test-{}-{number}", std::process::id());
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--sig-proxy=false", "--network", "none", "--name", &name]).args(options);
    command.arg(job::image().expect("an image")).args(words).stdout(Stdio::piped());
    let mut child = command.spawn().expect("docker runs");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut container = Container { name, child, stdout };
    assert_eq!(container.line(), "started\n");
    container
}

impl Container {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("docker").args(["kill", "--signal", name, &self.name]).output();
        assert!(sent.is_ok_and(|output| output.status.success()), "docker kill");
    }

    fn end(mut self) -> (String, i32) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        (rest, self.child.wait().expect("an end").code().expect("an exit code"))
    }
}

fn first_line(job: &mut Child) {
    let stdout = job.stdout.as_mut().expect("a pipe");
    let mut byte = [0];
    while byte != *b"\n" {
        stdout.read_exact(&mut byte).expect("a line");
    }
}
