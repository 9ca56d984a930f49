//! Promise 1, "One ending, told": however a job ends, and if it never starts, the callback accepts one report
//! that says so.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod machinery;

use machinery::{Callback, GIVEN, Given, Runtime, docker, run, start};

endings_of_both! {
    a_job_that_exits_with_0_is_completed:
        "docker run --rm IMAGE exit 0" => Completed, code 0, "the job completed";
    a_job_that_exits_with_1_is_an_error:
        "docker run IMAGE exit 1" => Error, code 1, "the job exited with code 1";
    a_job_that_exits_with_7_is_an_error:
        "docker run --rm IMAGE exit 7" => Error, code 7, "the job exited with code 7";
    a_job_that_exits_with_125_is_the_jobs_own_error:
        "docker run IMAGE exit 125" => Error, code 125, "the job exited with code 125";
    a_job_that_exits_with_126_is_the_jobs_own_error:
        "docker run IMAGE exit 126" => Error, code 126, "the job exited with code 126 (by custom: its command cannot be executed)";
    a_job_that_exits_with_127_is_the_jobs_own_error:
        "docker run IMAGE exit 127" => Error, code 127, "the job exited with code 127 (by custom: its command was not found)";
    a_job_that_exits_with_255_is_an_error:
        "docker run IMAGE exit 255" => Error, code 255, "the job exited with code 255";
    a_job_ended_by_sigkill_is_told_with_the_signal:
        "docker run --init IMAGE raise 9" => Error, code 137, signal SIGKILL, "the job was ended by SIGKILL (exit code 137)";
    a_job_ended_by_sigsegv_is_told_with_the_signal:
        "docker run IMAGE crash" => Error, code 139, signal SIGSEGV, "the job was ended by SIGSEGV (exit code 139)";
    a_job_ended_by_sigterm_is_told_with_the_signal:
        "docker run --init IMAGE raise 15" => Error, code 143, signal SIGTERM, "the job was ended by SIGTERM (exit code 143)";
    a_job_past_its_deadline_is_stopped_and_told:
        "docker run IMAGE wait", [("longrun-timeout", "1s")]
        => DeadlineExceeded, code 143, signal SIGTERM, "the job ran longer than 1s, was stopped, and was ended by SIGTERM";
    a_job_that_ignores_its_stop_signal_is_killed_after_its_grace:
        "docker run IMAGE ignore-term wait", [("longrun-timeout", "1s"), ("longrun-stop-grace", "1s")]
        => DeadlineExceeded, code 137, signal SIGKILL, "the job ran longer than 1s, was stopped, and was ended by SIGKILL";
    an_unknown_attribute_is_told_with_the_nearest_one:
        "docker run IMAGE", [("longrun-timout", "1h")] => InvalidJob, "longrun-timout: unknown attribute; the nearest known one is longrun-timeout";
    codes_to_retry_without_a_number_of_attempts_are_told:
        "docker run IMAGE", [("longrun-retry-exit-codes", "75")] => InvalidJob, "nothing is tried again without longrun-max-attempts";
    a_credential_asked_for_where_it_must_not_go_is_told_without_it:
        "docker run IMAGE", [("longrun-callback-auth", "access-token")], [], Callback::Plain
        => InvalidJob, "an access token goes to https://*.googleapis.com alone";
}

endings! { Docker;
    a_job_out_of_memory_is_told_as_oom_killed:
        "docker run -m 32m IMAGE hog" => OOMKilled, code 137, signal SIGKILL, "the job ran out of memory (limit 32 MiB";
    an_entrypoint_that_is_not_there_cannot_run:
        "docker run --entrypoint /nope IMAGE" => ContainerCannotRun, code 127, "\"/nope\": stat /nope: no such file or directory";
    an_entrypoint_that_is_no_program_cannot_run:
        "docker run --entrypoint /etc/passwd IMAGE" => ContainerCannotRun, code 126, "permission denied";
    a_device_that_is_not_there_cannot_run:
        "docker run --device /dev/nope IMAGE" => ContainerCannotRun, "/dev/nope";
    a_network_that_is_not_there_cannot_run:
        "docker run --network nope IMAGE" => ContainerCannotRun, "network nope not found";
    an_image_that_must_not_be_pulled_and_is_not_there_is_told:
        "docker run --pull never nope:1" => ImagePullFailed, "the image nope:1 is not on this VM";
    an_engine_that_is_away_is_told:
        "docker run IMAGE", [], [("DOCKER_HOST", "unix:///nowhere/docker.sock"), ("LONGRUN_ENGINE_WAIT", "1s")]
        => EngineLost, "is Docker running, and its socket mounted?";
    an_unknown_flag_is_named_with_its_place:
        "docker run --rm --gpu all IMAGE" => InvalidJob, "docker-command: unknown flag `--gpu` at word 4; the nearest known one is --gpus";
    a_flag_with_a_bad_value_is_named:
        "docker run -m lots IMAGE" => InvalidJob, "docker-command: --memory at word 3: `lots` cannot be used";
    a_quote_without_its_partner_is_shown:
        "docker run IMAGE print 'hello" => InvalidJob, "' at character";
    an_empty_image_is_told:
        "docker run --rm ''" => InvalidJob, "docker-command: the image is empty";
    a_command_without_image_is_told:
        "docker run --rm" => InvalidJob, "docker-command: no image after the flags";
    a_command_that_is_no_docker_run_is_told:
        "kubectl apply" => InvalidJob, "docker-command: expected `docker run …`, found `kubectl` at word 1";
    a_job_with_two_commands_is_told:
        "docker run IMAGE", [("host-command", "true")] => InvalidJob, "docker-command and host-command are both set";
    a_job_without_command_is_told:
        "" => InvalidJob, "neither docker-command nor host-command is set";
    a_user_of_the_vm_for_a_container_is_told:
        "docker run IMAGE", [("longrun-user", "nobody")] => InvalidJob, "longrun-user: it is for host-command";
}

mod of_a_host_command {
    use super::*;

    endings! { Host;
        a_shell_makes_of_a_command_what_it_does:
            "false | echo \"$((6 * 7))\" | grep -q 42 && exit 7" => Error, code 7, "the job exited with code 7";
        a_script_is_run_by_its_interpreter:
            "#!/usr/bin/env python3\nimport sys\nsys.exit(5)" => Error, code 5, "the job exited with code 5";
        a_script_without_its_first_line_is_run_by_the_shell:
            "first=3\nexit $((first + 1))" => Error, code 4, "the job exited with code 4";
        a_signal_without_a_name_is_an_end_too:
            "kill -34 $$" => Error, code 162, "the job exited with code 162";
        a_command_that_no_shell_understands_is_an_error:
            "echo (" => Error, code 2, "the job exited with code 2";
        a_program_that_is_not_found_is_named:
            "no-such-program --a b" => CommandCannotRun, code 127, "`no-such-program` is not found on this VM";
        a_program_that_is_not_there_is_named:
            "/no/such/program" => CommandCannotRun, code 127, "`/no/such/program` is not there";
        a_program_that_cannot_be_executed_is_named:
            "/etc/passwd -x" => CommandCannotRun, code 126, "`/etc/passwd` cannot be executed";
        a_program_that_is_a_directory_is_named:
            "/etc" => CommandCannotRun, code 126, "`/etc` is a directory";
        a_program_that_only_the_shell_can_look_for_is_left_to_it:
            "no-such-program || exit 6" => Error, code 6, "the job exited with code 6";
        an_interpreter_that_is_not_there_is_named:
            "#!/no/such/interpreter -x\ntrue" => CommandCannotRun, code 127, "the interpreter `/no/such/interpreter` is not on this VM";
        an_interpreter_that_is_no_path_is_told:
            "#!python3\ntrue" => InvalidJob, "`#!python3` names no interpreter; expected an absolute path";
        a_user_that_is_not_there_is_named:
            "true", [("longrun-user", "no-such-user")] => CommandCannotRun, code 126, "longrun-user: `no-such-user` is no user of this VM";
        a_user_that_is_none_is_told:
            "true", [("longrun-user", "a b")] => InvalidJob, "longrun-user: `a b` cannot be used; expected a user of the VM, by name or number";
        a_command_of_blanks_is_told:
            " " => InvalidJob, "host-command: it is empty";
        a_state_folder_that_cannot_be_used_is_told:
            "true", [], [("LONGRUN_STATE_DIR", "/proc/nowhere")]
            => CommandCannotRun, "cannot be used: No such file or directory (os error 2); LONGRUN_STATE_DIR names its parent's";
    }
}

#[tokio::test]
async fn anonymous_volumes_go_with_their_container_if_the_command_says_rm() {
    for (flags, gone) in [("--rm", true), ("", false)] {
        let command = format!("docker run {flags} -v /data IMAGE wait");
        let mut agent = start(Given { command: &command, ..GIVEN }).await;
        let container = agent.says("the job runs").await["container"].as_str().unwrap().to_owned();
        let volume = docker(&["inspect", "--format", "{{(index .Mounts 0).Name}}", &container]);
        agent.signal("TERM");
        agent.ended().await.report();
        let left = docker(&["volume", "ls", "-q", "--filter", &format!("name={volume}")]);
        assert_eq!(left.is_empty(), gone, "{flags}");
        if !gone {
            docker(&["volume", "rm", &volume]);
        }
    }
}

#[tokio::test]
async fn a_job_that_leaves_the_vm_no_thread_is_told() {
    // All but the first one that the agent asks for; one without work lives on for ten seconds by itself.
    let inject = "inject=clone,clone3:error=EAGAIN:when=2+";
    let under = ["strace", "-D", "-f", "-q", "-o", "/dev/null", "-e", "trace=clone,clone3", "-e", inject];
    let command = "docker run IMAGE pause 11000 exit 3";
    let ended = run(Given { command, under: &under, ..GIVEN }).await;
    assert_eq!(ended.report()["exitCode"], 3, "{}", ended.stderr);
}

#[tokio::test]
async fn what_a_shell_would_have_expanded_is_warned_of_and_left_alone() {
    let ended = run(Given { command: "docker run IMAGE print $HOME", ..GIVEN }).await;
    assert_eq!(ended.report()["logs"]["tail"], "$HOME\n");
    assert!(ended.logged("no shell runs docker-command"));
}

struct Then {
    reason: &'static str,
    code: Option<u8>,
    signal: Option<&'static str>,
    message: &'static str,
}

async fn check(given: Given<'_>, then: Then) {
    let ended = run(given).await;
    let report = ended.report();
    assert_eq!(report["reason"], then.reason, "{report:#}");
    assert_eq!(report["exitCode"].as_u64(), then.code.map(u64::from), "{report:#}");
    assert_eq!(report["signal"].as_str(), then.signal, "{report:#}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains(then.message), "{message}");
    let succeeded = if then.reason == "Completed" { "Succeeded" } else { "Failed" };
    assert_eq!(report["outcome"], succeeded);
    assert_eq!(ended.status.code(), Some(0), "the agent's exit code tells of the delivery alone");

    // Whatever ran has its times and is the one attempt; whatever did not has none.
    let ran = !["InvalidJob", "ImagePullFailed", "ContainerCannotRun", "CommandCannotRun", "EngineLost"]
        .contains(&then.reason);
    assert_eq!(report["attempts"].as_array().map(Vec::len), Some(usize::from(ran)), "{report:#}");
    assert_eq!(report["startedAt"].is_string() && report["finishedAt"].is_string(), ran, "{report:#}");
    assert!(report["finishedAt"].as_str() >= report["startedAt"].as_str(), "{report:#}");
    assert_eq!(report["instance"]["name"], sandbox::INSTANCE);
}

/// A row a test: `command[, attributes[, environment[, callback]]] => reason[, code][, signal], message`.
macro_rules! endings {
    ($runtime:ident; $($name:ident: $command:literal $(, $attributes:tt $(, $environment:tt $(, $callback:expr)?)?)?
        => $reason:ident $(, code $code:literal)? $(, signal $signal:ident)?, $message:literal;)*) => {
        $(#[tokio::test]
        async fn $name() {
            #[allow(unused_mut, unused_assignments, clippy::allow_attributes, reason = "by the row")]
            let (mut given, mut code, mut signal) = (Given { command: $command, runtime: Runtime::$runtime, ..GIVEN }, None, None);
            $(given.attributes = &$attributes; $(given.environment = &$environment; $(given.callback = $callback;)?)?)?
            $(code = Some($code);)?
            $(signal = Some(stringify!($signal));)?
            check(given, Then { reason: stringify!($reason), code, signal, message: $message }).await;
        })*
    };
}
use endings;

/// The same rows, for each runtime.
macro_rules! endings_of_both {
    ($($rows:tt)*) => {
        mod in_a_container {
            use super::*;
            endings! { Docker; $($rows)* }
        }
        mod on_the_vm {
            use super::*;
            endings! { Host; $($rows)* }
        }
    };
}
use endings_of_both;
