//! The startup script on a VM: run by Google's own runner, in a root as Container-Optimized OS has it, with an image
//! that only the VM's service account may pull, at every boot.
//!
//! The VM is a private Engine's namespaces. There the metadata server is at its real address, and a registry stands
//! where `/etc/hosts` says that Google's is.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    thread,
    time::Duration,
};

use machinery::private_engine::PrivateEngine;
use nix::sched::{CloneFlags, setns};
use sandbox::{Sandbox, tools};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    time::timeout,
};

const SCRIPT: &str = include_str!("../deploy/startup-script.sh");
const REGISTRY: &str = "us-east.pkg.dev";
const AGENT: &str = "us-east.pkg.dev/project/longrun/agent:1";
/// What a VM says here in the place of going off.
const OFF: &str = "this VM would be off";
/// A boot pulls an image and runs a job.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a VM has that a namespace has not: the metadata server's address, the registry's, and disks of its own. `$1` is
/// `/etc/hosts`.
const VM: &str = "
set -e
ip link set lo up
ip address add 169.254.169.254/32 dev lo
mount --bind \"$1\" /etc/hosts
mount -t tmpfs tmpfs /var/lib
";

/// The Engine, where a VM has it. `$1` is its socket.
const ENGINE: &str = "touch /run/docker.sock && mount --bind \"$1\" /run/docker.sock";

/// Container-Optimized OS' rules (FACTS), and its setting for where scripts are put: /tmp runs none there.
const COS: &str = "
set -e
mount -t tmpfs tmpfs /etc/default
printf '[MetadataScripts]\\nrun_dir = /var/lib/google\\n' >/etc/default/instance_configs.cfg
mount --rbind /var /var
mount -o remount,bind,noexec /var
mount -o remount,bind,noexec /var/lib
mkdir -p /var/lib/google
mount -t tmpfs tmpfs /var/lib/google
# The program may lie below /tmp, with the checkout.
mkdir -p /var/lib/google/bin
cp \"$1\" /var/lib/google/bin
program=/var/lib/google/bin/${1##*/}
shift
mount -t tmpfs -o noexec tmpfs /tmp
mount -o remount,bind,ro /
if touch /root/probe 2>/dev/null; then echo 'the root can be written'; exit 9; fi
exec \"$program\" \"$@\"
";

#[tokio::test]
async fn each_boot_starts_the_agent_and_the_job_runs_once() {
    let vm = Vm::new().await;
    vm.push_agent();
    let folder = tempfile::tempdir().unwrap();
    let job = vm.engine.image();
    let command = format!("docker run --rm -v {}:/vm {job} append /vm/ran x exit 7", folder.path().display());
    vm.sandbox.set_attribute("startup-script", &script());
    vm.sandbox.set_attribute("agent-image", AGENT);
    vm.sandbox.set_attribute("docker-command", &command);
    vm.sandbox.set_attribute("callback-url", &vm.sandbox.plain_callback_url());

    for boot in 1..=2 {
        let booted = vm.boot().await;
        let said =
            String::from_utf8_lossy(&booted.stdout).into_owned() + &String::from_utf8_lossy(&booted.stderr);
        assert!(said.contains("startup-script exit status 0"), "boot {boot}: {said}");
        assert_eq!(vm.engine.ended("longrun-agent").await, "0", "boot {boot}");
        let reports = vm.sandbox.reports();
        assert_eq!(reports.len(), 1, "boot {boot}");
        assert_eq!(
            (reports[0]["exitCode"].as_u64(), reports[0]["reason"].as_str()),
            (Some(7), Some("Error"))
        );
        assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap().trim(), "x", "boot {boot}");
        for token in vm.sandbox.tokens() {
            assert!(!said.contains(&token), "a token was printed");
        }
        let left =
            vm.inside("sh", &["-c", "ls -d /run/longrun* 2>&1; cat /root/.docker/config.json 2>&1"]).await;
        assert!(!String::from_utf8_lossy(&left.stdout).contains("auth"), "{left:?}");
        assert!(
            String::from_utf8_lossy(&left.stdout).contains("No such file"),
            "a credential was left: {left:?}"
        );
    }
}

#[tokio::test]
async fn the_units_steps_do_the_same() {
    let vm = Vm::new().await;
    vm.push_agent();
    let job = vm.engine.image();
    vm.sandbox.set_attribute("agent-image", AGENT);
    vm.sandbox.set_attribute("docker-command", &format!("docker run --rm {job} exit 7"));
    vm.sandbox.set_attribute("callback-url", &vm.sandbox.plain_callback_url());
    let pull = vm.folder.path().join("pull.sh");
    fs::write(&pull, cloud_init("/etc/longrun/pull.sh\n")).unwrap();
    let unit = as_root(&cloud_init("/etc/systemd/system/longrun-agent.service\n"));
    let (_, start) = unit.split_once("ExecStart=/bin/bash -c '").unwrap();
    let start = start.split_once("'\n").unwrap().0;
    let steps = format!("mkdir -m 700 /run/longrun && bash {} && {start}", pull.display());
    for boot in 1..=2 {
        // RuntimeDirectory goes with each stop.
        let steps =
            format!("rm -rf /run/longrun && export HOME=/run/longrun DOCKER_CONFIG=/run/longrun && {steps}");
        let done = vm.inside("bash", &["-c", &steps]).await;
        assert_eq!(done.status.code(), Some(0), "boot {boot}: {done:?}");
        assert_eq!(vm.sandbox.reports().len(), 1, "boot {boot}");
        let left = vm.inside("ls", &["/run/longrun"]).await;
        assert_eq!(String::from_utf8_lossy(&left.stdout), "host\nimage\n", "a credential was left");
    }
}

#[tokio::test]
async fn a_vm_on_which_no_agent_starts_says_why_on_the_serial_console_and_goes_off() {
    let vm = Vm::new().await;
    vm.sandbox.set_attribute("startup-script", &script());
    vm.assert_goes_off("the attribute agent-image is missing").await;
    vm.sandbox.set_attribute("agent-image", AGENT);
    vm.assert_goes_off(&format!("the agent's image {AGENT} cannot be pulled")).await;

    // An agent that ends at once, however often Docker tries: nobody told it where the report goes.
    vm.push_agent();
    vm.sandbox.set_attribute("docker-command", "docker run --rm a");
    vm.assert_goes_off("the agent exited 64").await;
    assert_eq!(vm.agents_rights(), "false");
    vm.sandbox.remove_attribute("docker-command");
    vm.sandbox.set_attribute("host-command", "true");
    // Where tests run, there may be no right to start such a container.
    vm.assert_goes_off("the agent ").await;
    assert_eq!(vm.agents_rights(), "true host");
}

/// A VM that boots when it is told to.
struct Vm {
    engine: PrivateEngine,
    sandbox: Sandbox,
    folder: TempDir,
    _registry: Child,
}

impl Vm {
    async fn new() -> Self {
        let mut engine = PrivateEngine::start(false).await;
        let folder = tempfile::tempdir().unwrap();
        // dockerd's namespaces are root's own, but this folder is read by its children.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost {REGISTRY}\n")).unwrap();
        set_up(&engine, VM, hosts.to_str().unwrap()).await;
        // It remembers the hosts that it read when it started.
        engine.stop().await;
        engine.start_again().await;
        set_up(&engine, ENGINE, engine.docker_host().trim_start_matches("unix://")).await;
        let listener = listen_in(&engine.network());
        let sandbox = Sandbox::builder().listener(listener).start().await.unwrap();
        let registry = registry(&engine, folder.path()).await;
        Self { engine, sandbox, folder, _registry: registry }
    }

    /// Runs the startup script as a boot does.
    async fn boot(&self) -> Output {
        let runner = tools::script_runner().unwrap_or_else(|error| panic!("{error}"));
        let mut boot = self.engine.enter("timeout");
        // It says what it did, also where that went on and on.
        boot.args([
            "--kill-after=5",
            &PATIENCE.as_secs().to_string(),
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            COS,
            "cos",
        ])
        .arg(runner)
        .arg("startup");
        let booted =
            boot.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        booted.env("HOME", "/root").kill_on_drop(true).output().await.unwrap()
    }

    async fn assert_goes_off(&self, why: &str) {
        let booted = self.boot().await;
        let said =
            String::from_utf8_lossy(&booted.stdout).into_owned() + &String::from_utf8_lossy(&booted.stderr);
        assert!(said.contains(&format!("longrun: {why}")) && said.contains(OFF), "{why}: {said}");
    }

    /// Whether the agent's container is privileged, and whose processes it sees.
    fn agents_rights(&self) -> String {
        let format = "{{.HostConfig.Privileged}} {{.HostConfig.PidMode}}";
        self.engine.docker(&["inspect", "--format", format, "longrun-agent"]).trim().to_owned()
    }

    async fn inside(&self, program: &str, words: &[&str]) -> Output {
        timeout(PATIENCE, self.engine.enter(program).args(words).output()).await.unwrap().unwrap()
    }

    /// Puts the agent into the registry, as an image of its own, and takes it away here.
    fn push_agent(&self) {
        let root = self.folder.path().join("root");
        fs::create_dir_all(&root).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_longrun-agent"), root.join("longrun-agent")).unwrap();
        // What is shipped is static; this one finds its libraries where this machine has them.
        let ldd = run("ldd", &[env!("CARGO_BIN_EXE_longrun-agent")]);
        for library in ldd.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
        let archive = self.folder.path().join("agent.tar");
        run("tar", &["-C", root.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]);
        let entrypoint = r#"ENTRYPOINT ["/longrun-agent"]"#;
        self.engine.docker(&["import", "--change", entrypoint, archive.to_str().unwrap(), AGENT]);
        self.engine.docker(&["--config", self.folder.path().to_str().unwrap(), "push", "--quiet", AGENT]);
        self.engine.docker(&["rmi", AGENT]);
    }
}

/// The startup script, with less patience, on a VM that does not go off: it is this machine.
fn script() -> String {
    let (off, pause) = ("systemctl poweroff", "sleep 10\n");
    assert!(SCRIPT.matches(off).count() == 1 && SCRIPT.contains(pause));
    as_root(SCRIPT).replace(off, &format!("echo '{OFF}'")).replace(pause, "sleep 0\n")
}

/// A script but for one word: where tests run, a score may not be lowered.
fn as_root(script: &str) -> String {
    let (ours, theirs) = ("--oom-score-adj 0", "--oom-score-adj -900");
    assert!(script.contains(theirs));
    script.replace(theirs, ours)
}

/// What cloud-init writes into a file.
fn cloud_init(path: &str) -> String {
    let text = include_str!("../deploy/cloud-init.yaml");
    let content = text.split_once(path).and_then(|(_, rest)| rest.split_once("content: |\n")).unwrap().1;
    let lines = content.lines().take_while(|line| line.is_empty() || line.starts_with("      "));
    lines.map(|line| line.get(6..).unwrap_or_default().to_owned() + "\n").collect()
}

async fn set_up(engine: &PrivateEngine, script: &str, path: &str) {
    let done = engine.enter("sh").args(["-c", script, "vm", path]).output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// A registry that knows the service account's token and nobody else; its client's configuration is in `folder`.
async fn registry(engine: &PrivateEngine, folder: &Path) -> Child {
    let url = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token";
    let token = engine.enter("curl").args(["-sfH", "Metadata-Flavor: Google", url]).output().await.unwrap();
    let token: serde_json::Value = serde_json::from_slice(&token.stdout).unwrap();
    let token = token["access_token"].as_str().unwrap();
    let hash = bcrypt::hash_with_result(token, 4).unwrap().format_for_version(bcrypt::Version::TwoY);
    let users = folder.join("htpasswd");
    fs::write(&users, format!("oauth2accesstoken:{hash}\n")).unwrap();
    let mut login = engine.enter("docker");
    login.args(["--host", &engine.docker_host(), "--config"]).arg(folder);
    login.args(["login", "--username", "oauth2accesstoken", "--password-stdin", REGISTRY]);
    let config = folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nhttp: {{addr: '127.0.0.1:80'}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nauth: {{htpasswd: {{realm: longrun, path: {}}}}}\n",
        folder.join("data").display(),
        users.display()
    );
    fs::write(&config, text).unwrap();
    let program = tools::docker_registry().unwrap_or_else(|error| panic!("{error}"));
    let mut registry = engine.enter(program);
    let mut registry =
        registry.arg("serve").arg(&config).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(registry.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("the registry listens").contains("listening on") {}
    // A pipe that nobody reads would stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let password = folder.join("token");
    fs::write(&password, token).unwrap();
    let logged_in = login.stdin(File::open(&password).unwrap()).output().await.unwrap();
    assert!(logged_in.status.success(), "{logged_in:?}");
    registry
}

/// The metadata server's address, in a network in which it is free.
fn listen_in(network: &Path) -> TcpListener {
    let network = File::open(network).unwrap();
    let listen = move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind("169.254.169.254:80").unwrap()
    };
    // A thread's network is its own.
    thread::spawn(listen).join().unwrap()
}

fn run(program: &str, words: &[&str]) -> String {
    let output = std::process::Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
