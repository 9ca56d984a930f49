//! `host-command`, where it has no like among containers: what a command finds, whom it leaves behind, and what its
//! shim's loss costs.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use machinery::{
    Agent, GIVEN, Given, Runtime, agent_image, host::Shared, kill_shim, private_engine::PrivateEngine, run,
    start,
};
use nix::sched::{CloneFlags, setns};
use sandbox::Sandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

const ON_HOST: Given<'static> = Given { runtime: Runtime::Host, ..GIVEN };
/// `--pid=host --privileged`, where it matters here, for machines that may not give all that the latter wants.
const PRIVILEGED: [&str; 4] =
    ["--pid=host", "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt=seccomp=unconfined"];
/// From the command's end to its report, though somebody holds its pipes.
const HELD_UP_AT_MOST: Duration = Duration::from_secs(8);
/// Of a chain of processes; they take some seconds, and there is one at a time.
const LINKS: u32 = 4_000;

#[tokio::test]
async fn a_command_finds_a_clean_environment_and_a_folder_of_its_own() {
    let attributes = [("longrun-env-GREETING", "it's $HOME, \"twice\"")];
    let command = "env | sort; pwd; ls -A; umask; cat; ps -o sid= -o pgid= -p $$";
    let report = run(Given { command, attributes: &attributes, ..ON_HOST }).await.report();
    let tail = report["logs"]["tail"].as_str().unwrap();
    let lines: Vec<_> = tail.lines().collect();
    let (environment, rest) = lines.split_at(7);
    assert_eq!(
        environment,
        [
            "GREETING=it's $HOME, \"twice\"",
            "HOME=/root",
            "LOGNAME=root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            &*format!("PWD={}", rest[0]),
            "SHELL=/bin/sh",
            "USER=root",
        ],
        "{tail}"
    );
    let [folder, umask, ids] = rest else { panic!("an empty folder, and no input: {tail}") };
    assert!(folder.ends_with("/work") && *umask == "0022", "{tail}");
    let ids: Vec<_> = ids.split_whitespace().collect();
    assert_eq!(ids[0], ids[1], "a session and a group of its own");
}

#[tokio::test]
async fn a_command_runs_as_its_user_who_sees_nothing_of_the_agents() {
    for (user, id) in [("nobody", "65534 nogroup"), ("65534", "65534 nogroup"), ("4711", "4711 4711")] {
        let command = "echo $(id -u) $(id -gn 2>/dev/null); echo x > mine && cat mine && test -O . && ls .. 2>&1; \
                       cat ../record.json 2>&1; exit 0";
        let attributes = [("longrun-user", user)];
        let report = run(Given { command, attributes: &attributes, ..ON_HOST }).await.report();
        let tail = report["logs"]["tail"].as_str().unwrap();
        assert!(tail.starts_with(&format!("{id}\nx\n")), "{user}: {tail}");
        assert_eq!(tail.matches("Permission denied").count(), 2, "{user}: {tail}");
    }
}

#[tokio::test]
async fn a_script_of_another_user_is_read_by_its_interpreter() {
    let command = "#!/usr/bin/env python3\nimport os\nprint(os.getuid(), os.getcwd().split('/')[-1])";
    let attributes = [("longrun-user", "nobody")];
    let report = run(Given { command, attributes: &attributes, ..ON_HOST }).await.report();
    assert_eq!(report["logs"]["tail"], "65534 work\n", "{report:#}");
}

#[tokio::test]
async fn a_command_that_is_longer_than_an_argument_may_be_runs() {
    let command = format!("{}\necho done", ": ".repeat(100_000));
    let report = run(Given { command: &command, ..ON_HOST }).await.report();
    assert_eq!(report["logs"]["tail"], "done\n", "{}", report["message"]);
}

#[tokio::test]
async fn whoever_is_left_behind_is_named_and_ended_and_holds_nothing_up() {
    for (command, named) in [
        ("sleep 86401 & echo out", "sleep 86401"),
        ("(setsid sleep 86402 &) ; echo out", "sleep 86402"),
        ("(trap '' TERM; while :; do sleep 86403; done) & echo out", "sleep 86403"),
        (
            "(setsid sh -c 'setsid sleep 86404 & exit' >/dev/null 2>&1 </dev/null &); echo out; sleep 0.3",
            "sleep 86404",
        ),
    ] {
        let begun = Instant::now();
        let report = run(Given { command, ..ON_HOST }).await.report();
        assert!(begun.elapsed() < HELD_UP_AT_MOST, "{command}: {:?}", begun.elapsed());
        let message = report["message"].as_str().unwrap();
        let told = "the job completed; it left processes behind, which were ended: ";
        assert!(message.starts_with(told) && message.contains(named), "{command}: {message}");
        assert_eq!((&report["reason"], &report["logs"]["tail"]), (&json!("Completed"), &json!("out\n")));
        assert_eq!(running(named), [""; 0], "{command}");
    }
}

#[tokio::test]
async fn processes_that_are_gone_before_they_are_looked_up_are_ended_and_told_all_the_same() {
    // One after the other, so that there are hardly two at once: each counts, begins the next, and is gone. Left alone they end
    // by themselves after some seconds, and leave a file.
    let shared = Shared::folder();
    let at_its_end = shared.path("at-its-end");
    let count = "i=0; while [ $i -lt 500 ]; do i=$((i + 1)); done";
    let link = format!("{count}; [ $1 -gt 0 ] || exec touch {at_its_end}; sh -c \"$0\" \"$0\" $(($1 - 1)) &");
    let command = format!("trap '' TERM; sh -c '{link}' '{link}' {LINKS} & echo out");
    let begun = Instant::now();
    let report = run_on_host(&command).await;
    assert!(begun.elapsed() < HELD_UP_AT_MOST, "{:?}", begun.elapsed());
    let message = report["message"].as_str().unwrap();
    assert!(
        message.starts_with("the job completed; it left processes behind, which were ended: "),
        "{message}"
    );
    assert_eq!(running(&format!("sh -c .*{at_its_end}.*")), [""; 0], "{message}");
    assert!(!Path::new(&at_its_end).exists(), "they ended by themselves");
}

#[tokio::test]
async fn pipes_that_nobody_can_close_hold_the_report_up_for_five_seconds_at_most() {
    // Another process of the machine has the command's output, and is no child of it.
    let folder = tempfile::tempdir().unwrap();
    let (up, go) = (folder.path().join("up"), folder.path().join("go"));
    let command =
        format!("echo $$ > {}; while [ ! -e {} ]; do sleep 0.05; done; echo out", up.display(), go.display());
    let mut agent = start(Given { command: &command, ..ON_HOST }).await;
    agent.says("the job runs").await;
    let id = written(&up).await;
    let stdout = fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/1", id.trim())).unwrap();
    let ended = Instant::now();
    fs::write(&go, "").unwrap();
    let report = agent.ended().await.report();
    assert!(ended.elapsed() < HELD_UP_AT_MOST, "{:?}", ended.elapsed());
    assert_eq!((&report["reason"], &report["logs"]["tail"]), (&json!("Completed"), &json!("out\n")));
    drop(stdout);
}

#[tokio::test]
async fn a_stop_reaches_the_whole_group_and_sigkill_all_that_it_started() {
    let shared = Shared::folder();
    for (command, code, signal) in [
        (
            "trap 'echo parent; exit 4' TERM; (trap 'echo child; exit' TERM; touch UP; while :; do sleep 0.05; done) & wait",
            4,
            Value::Null,
        ),
        (
            "trap '' TERM; setsid sh -c 'trap \"\" TERM; touch UP; while :; do sleep 86405; done'",
            137,
            json!("SIGKILL"),
        ),
    ] {
        let command = command.replace("UP", &shared.path("up"));
        let given = Given { command: &command, attributes: &[("longrun-stop-grace", "1s")], ..ON_HOST };
        let mut agent = start(given).await;
        agent.says("the job runs").await;
        shared.passed("up").await;
        fs::remove_file(shared.path("up")).unwrap();
        agent.signal("TERM");
        let report = agent.ended().await.report();
        assert_eq!((&report["exitCode"], &report["signal"]), (&json!(code), &signal), "{report:#}");
        let said = report["logs"]["tail"].as_str().unwrap().lines();
        // The shell's own word for what it waited for.
        let mut said: Vec<_> = said.filter(|line| *line != "Terminated").collect();
        said.sort_unstable();
        assert_eq!(said, if code == 4 { vec!["child", "parent"] } else { Vec::new() });
    }
    assert_eq!(running("sleep 86405"), [""; 0]);
}

#[tokio::test]
async fn a_command_whose_shim_is_killed_goes_with_it_and_is_told_with_its_log() {
    for (is_agent_killed, grandchild) in [(false, "sleep 86406"), (true, "sleep 86407")] {
        let shared = Shared::folder();
        let command = format!("echo early; setsid true; {grandchild} & touch {}; wait", shared.path("up"));
        let mut agent = start(Given { command: &command, ..ON_HOST }).await;
        agent.says("the job runs").await;
        shared.passed("up").await;
        let shim = agent.shim();
        let agent = match is_agent_killed {
            true => agent.killed_and_started_after(|| kill_shim(&shim)).await,
            false => {
                kill_shim(&shim);
                agent
            }
        };
        let report = agent.ended().await.report();
        let message = "the shim that kept the command's exit status was killed, and the command with it";
        assert_eq!((&report["reason"], &report["message"]), (&json!("EngineLost"), &json!(message)));
        assert_eq!(
            (&report["exitCode"], &report["logs"]["tail"]),
            (&Value::Null, &json!("early\n")),
            "{report:#}"
        );
        assert_eq!(running(grandchild), [""; 0]);
    }
}

#[tokio::test]
async fn a_shim_does_not_care_for_what_stops_an_agent() {
    let shared = Shared::folder();
    let (agent, _) = waiting(&shared).await;
    let id = fs::read_to_string(agent.shim().join("lock")).unwrap();
    for signal in ["TERM", "INT", "HUP"] {
        assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }
    shared.let_pass("go");
    assert_eq!(agent.ended().await.report()["exitCode"], 7);
}

#[tokio::test]
async fn an_agent_that_nothing_is_left_of_leaves_nothing_behind() {
    let shared = Shared::folder();
    let (agent, state) = waiting(&shared).await;
    for (path, mode) in [("", 0o700), ("shim.sock", 0o600), ("record.json", 0o600), ("log.1", 0o600)] {
        let found = fs::metadata(agent.shim().join(path)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{path}");
    }
    shared.let_pass("go");
    agent.signal("CONT");
    let ended = agent.ended().await;
    assert_eq!(ended.report()["exitCode"], 7);
    assert!(!state.join("host").exists() || fs::read_dir(state.join("host")).unwrap().next().is_none());
}

#[tokio::test]
async fn several_containers_in_a_row_are_one_command() {
    let image = machinery::image();
    let run = "docker run --rm";
    let command =
        format!("{run} {image} print one && {run} {image} exit 5 || {run} {image} print two exit 6");
    let report = run_on_host(&command).await;
    assert_eq!(
        (&report["exitCode"], &report["logs"]["tail"]),
        (&json!(6), &json!("one\ntwo\n")),
        "{report:#}"
    );
}

#[tokio::test]
async fn where_there_is_no_docker_nothing_asks_for_it() {
    let environment = [("DOCKER_HOST", "unix:///nowhere/docker.sock")];
    let given = Given { command: "echo hello; exit 3", environment: &environment, ..ON_HOST };
    let ended = run(given).await;
    assert_eq!(
        (&ended.report()["exitCode"], &ended.report()["logs"]["tail"]),
        (&json!(3), &json!("hello\n"))
    );
    assert!(!ended.logged("Engine"), "{:#?}", ended.log);
}

#[tokio::test]
async fn what_its_cgroup_tells_of_a_command_is_in_the_report() {
    // No process has this number (proc(5), pid_max): it stays in the cgroup's list whatever is done.
    let stays = "4194304";
    for (file, text, reason, told, killed) in [
        ("memory.events", "oom 1\noom_kill 1\n", "OOMKilled", "memory", false),
        ("cgroup.procs", stays, "Error", "; it left processes behind, of which 1 could not be ended: ", true),
    ] {
        let (_vm, cgroups) = cgroups();
        let script = "mount --bind \"$0\" /sys/fs/cgroup && exec \"$@\"";
        let under =
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, cgroups.to_str().unwrap()];
        let shared = Shared::folder();
        let command = format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.05; done; exit 1",
            shared.path("up"),
            shared.path("go")
        );
        let mut agent = start(Given { command: &command, under: &under, ..ON_HOST }).await;
        let id = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
        shared.passed("up").await;
        let cgroup = cgroups.join("longrun").join(id);
        let joined = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        assert_eq!(joined, "0", "the command joins it itself");
        fs::write(cgroup.join("cgroup.kill"), "").unwrap();
        fs::write(cgroup.join(file), text).unwrap();
        shared.let_pass("go");
        let report = agent.ended().await.report();
        assert_eq!((&report["reason"], &report["exitCode"]), (&json!(reason), &json!(1)), "{report:#}");
        let message = report["message"].as_str().unwrap();
        assert!(message.contains(told), "{message}");
        let kills = fs::read_to_string(cgroup.join("cgroup.kill")).unwrap();
        assert_eq!(!kills.is_empty(), killed, "{file}: {kills}");
    }
}

/// A cgroup v2 of the test's own, which only looks like one: the kernel neither counts nor kills in it.
fn cgroups() -> (TempDir, PathBuf) {
    let vm = tempfile::tempdir().unwrap();
    let cgroups = vm.path().join("cgroups");
    fs::create_dir(&cgroups).unwrap();
    for (file, text) in [("cgroup.controllers", "cpu memory\n"), ("cgroup.subtree_control", "")] {
        fs::write(cgroups.join(file), text).unwrap();
    }
    (vm, cgroups)
}

#[tokio::test]
async fn from_the_agents_container_a_command_runs_on_the_vm_and_outlives_that_container() {
    let mut vm = Vm::new().await;
    let up = vm.folder.path().join("up");
    let command = format!(
        "hostname; cat /etc/hostname; tr '\\0' ' ' </proc/1/cmdline | cut -c 1-5; ls -d /etc/passwd; echo up >{}; \
         while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        up.display(),
        vm.folder.path().join("go").display()
    );
    vm.order(&command, &PRIVILEGED);
    written(&up).await;
    vm.engine.docker(&["kill", "longrun-agent"]);
    fs::write(vm.folder.path().join("go"), "").unwrap();
    vm.engine.docker(&["start", "longrun-agent"]);
    let report = vm.sandbox.next_report().await;
    assert_eq!((&report["exitCode"], &report["reason"]), (&json!(7), &json!("Error")), "{report:#}");
    let hostname = fs::read_to_string("/etc/hostname").unwrap();
    let tail = report["logs"]["tail"].as_str().unwrap();
    assert!(tail.contains(&hostname) && tail.ends_with("/etc/passwd\n"), "{tail}");
    assert_eq!(vm.engine.ended("longrun-agent").await, "0");
    vm.engine.stop().await;
}

#[tokio::test]
async fn an_agents_container_that_may_not_enter_the_vm_says_what_it_needs() {
    for (flags, needs) in [
        (
            &[][..],
            "/bin/sh is not there; if the agent is in a container, start that with --pid=host --privileged",
        ),
        (&["--pid=host"], "the VM cannot be entered from this container"),
    ] {
        let vm = Vm::new().await;
        vm.order("true", flags);
        let report = vm.sandbox.next_report().await;
        assert_eq!(report["reason"], "CommandCannotRun", "{report:#}");
        let message = report["message"].as_str().unwrap();
        assert!(message.contains(needs) && message.contains("--pid=host --privileged"), "{message}");
        assert_eq!(vm.engine.ended("longrun-agent").await, "0");
    }
}

/// A VM whose agent is in a container.
struct Vm {
    engine: PrivateEngine,
    sandbox: Sandbox,
    folder: TempDir,
}

impl Vm {
    async fn new() -> Self {
        let engine = PrivateEngine::start(false).await;
        let up = engine.enter("ip").args(["link", "set", "lo", "up"]).output().await.unwrap();
        assert!(up.status.success(), "{up:?}");
        let sandbox = Sandbox::builder().listener(listen_in(&engine.network())).start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        agent_image::import(&engine, "agent:1", folder.path());
        Self { engine, sandbox, folder }
    }

    /// Starts the agent's container with an order.
    fn order(&self, command: &str, flags: &[&str]) {
        self.sandbox.set_attribute("host-command", command);
        self.sandbox.set_attribute("callback-url", &self.sandbox.plain_callback_url());
        let state = self.folder.path().join("state");
        fs::create_dir(&state).unwrap();
        let state = state.to_str().unwrap();
        let settings = self.sandbox.environment().map(|(name, value)| format!("{name}={value}"));
        let own = [format!("LONGRUN_STATE_DIR={state}"), "LONGRUN_LOG=debug".to_owned()];
        let volume = format!("{state}:{state}");
        let mut words =
            vec!["run", "--detach", "--name", "longrun-agent", "--network", "host", "-v", &volume];
        words.extend(flags);
        words.extend(settings.iter().chain(&own).flat_map(|setting| ["-e", setting]));
        words.push("agent:1");
        self.engine.docker(&words);
    }
}

/// A free port in a network of its own.
fn listen_in(network: &Path) -> TcpListener {
    let network = fs::File::open(network).unwrap();
    let listen = move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind("127.0.0.1:0").unwrap()
    };
    // A thread's network is its own.
    thread::spawn(listen).join().unwrap()
}

#[tokio::test]
async fn an_agent_that_stands_still_finds_the_rest_of_the_log_when_it_goes_on() {
    let shared = Shared::folder();
    let words = "await /vm/go lines 600000 100 print END file /vm/done yes";
    let mut agent = start(Given { command: &shared.command(words), ..ON_HOST }).await;
    agent.says("the job runs").await;
    agent.signal("STOP");
    shared.let_pass("go");
    // The shim gives a reader five seconds before it goes on without.
    shared.passed("done").await;
    agent.signal("CONT");
    let report = agent.ended().await.report();
    assert_eq!(report["logs"]["lines"], 600_001, "{report:#}");
    assert!(report["logs"]["tail"].as_str().unwrap().ends_with("END\n"));
}

#[tokio::test]
async fn a_user_has_no_file_of_roots_read_into_the_report() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (secret, link) = (folder.path().join("secret"), folder.path().join("result"));
    fs::write(&secret, "{\"top\": \"secret\"}").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    for (command, result) in [
        (format!("ln -s {} {}", secret.display(), link.display()), Value::Null),
        (format!("rm {0}; echo [1] > {0}; chmod 600 {0}", link.display()), json!([1])),
    ] {
        let attributes = [("longrun-user", "nobody"), ("longrun-result-file", link.to_str().unwrap())];
        let report = run(Given { command: &command, attributes: &attributes, ..ON_HOST }).await.report();
        assert_eq!((&report["exitCode"], &report["result"]), (&json!(0), &result), "{report:#}");
    }
}

async fn run_on_host(command: &str) -> Value {
    run(Given { command, ..ON_HOST }).await.report()
}

/// An agent whose command waits for `go` and exits with 7, and its state folder.
async fn waiting(shared: &Shared) -> (Agent, PathBuf) {
    let command = format!(
        "echo up; touch {}; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        shared.path("up"),
        shared.path("go")
    );
    let mut agent = start(Given { command: &command, ..ON_HOST }).await;
    agent.says("the job runs").await;
    shared.passed("up").await;
    let state = agent.state_dir().to_owned();
    (agent, state)
}

/// What a process wrote into a file, once it did.
async fn written(path: &Path) -> String {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The processes of this machine with this command line.
fn running(line: &str) -> Vec<String> {
    let found = std::process::Command::new("pgrep").args(["-f", "-x", line]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}
