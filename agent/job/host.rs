//! `host-command`: a shell command that runs on the VM itself.
//!
//! One line, or several, is what `/bin/sh -c` is given; several lines of which the first begins with `#!` are a
//! script for that interpreter, as the kernel would run it (execve(2), "Interpreter scripts"). Leaves out running
//! it, which is the shim's (`host/`).

use serde_json::{Map, Value, json};

/// The shell of a command without `#!`.
const SHELL: &str = "/bin/sh";
/// The kernel takes no argument of 128 KiB or more (execve(2), MAX_ARG_STRLEN): what is longer is a file.
const LONGEST_ARGUMENT: usize = 64 << 10;
/// What a name may be made of (useradd(8)); a number is a user too.
const USER_EXPECTED: &str = "a user of the VM, by name or number";

/// A command to run on the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCommand {
    /// Who it runs as, a name or a number; without one, as the agent does.
    pub user: Option<String>,
    /// The program and its arguments.
    argv: Vec<String>,
    /// The content of a file whose path is the last argument.
    script: Option<String>,
    /// The program that a simple command runs, which has to be there.
    program: Option<String>,
}

impl HostCommand {
    /// Reads the attribute's text. The error says what is wrong with it.
    pub(crate) fn parse(text: &str, user: Option<String>) -> Result<Self, String> {
        let text = text.replace("\r\n", "\n");
        let text = text.trim();
        if text.is_empty() {
            return Err("host-command: it is empty; expected a shell command".to_owned());
        }
        if text.contains('\0') {
            return Err("host-command: it has a zero byte, which no shell takes".to_owned());
        }
        let interpreter = text.split_once('\n').and_then(|(first, _)| first.strip_prefix("#!"));
        if let Some(interpreter) = interpreter {
            let argv = interpreter_of(interpreter)?;
            return Ok(Self { user, argv, script: Some(text.to_owned() + "\n"), program: None });
        }
        let program = program_of(text).map(str::to_owned);
        let shell = SHELL.to_owned();
        Ok(match text.len() < LONGEST_ARGUMENT {
            true => Self { user, argv: vec![shell, "-c".to_owned(), text.to_owned()], script: None, program },
            false => Self { user, argv: vec![shell], script: Some(text.to_owned()), program },
        })
    }

    /// What the shim is given to create it.
    pub(crate) fn create_body(&self) -> Map<String, Value> {
        let Self { user, argv, script, program } = self;
        let body = json!({ "Cmd": argv, "User": user, "Script": script, "Program": program });
        match body {
            Value::Object(body) => body,
            _ => unreachable!("it is an object"),
        }
    }
}

/// A program, and all that follows it as one argument. Source: execve(2).
fn interpreter_of(line: &str) -> Result<Vec<String>, String> {
    let line = line.trim();
    let (program, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if !program.starts_with('/') {
        return Err(format!(
            "host-command: `#!{line}` names no interpreter; expected an absolute path, such as #!/bin/bash"
        ));
    }
    let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
    Ok([program].into_iter().chain(argument).map(str::to_owned).collect())
}

/// The program of a simple command. What a shell could make something else of (another line, a pipe, a variable, a
/// pattern, an assignment) is no such thing, and only the shell knows what it runs.
fn program_of(text: &str) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " _-./:,+=@%".contains(c);
    let program = text.split(' ').next().filter(|program| !program.contains('='))?;
    text.chars().all(is_plain).then_some(program)
}

/// `longrun-user`. Whether there is such a user, the VM knows.
pub(crate) fn user(value: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.-@$".contains(c);
    match !value.is_empty() && value.len() <= 256 && value.chars().all(is_part) && !value.starts_with('-') {
        true => Ok(value.to_owned()),
        false => Err(USER_EXPECTED.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_to_the_shell_and_a_script_to_its_interpreter() {
        for (text, argv, script) in [
            ("echo hello; exit 3", &["/bin/sh", "-c", "echo hello; exit 3"][..], None),
            ("  a\r\nb  \n", &["/bin/sh", "-c", "a\nb"], None),
            ("#!/bin/bash", &["/bin/sh", "-c", "#!/bin/bash"], None),
            ("#!/bin/bash\necho", &["/bin/bash"], Some("#!/bin/bash\necho\n")),
            (
                "#! /usr/bin/env  python3 -u \nprint()",
                &["/usr/bin/env", "python3 -u"],
                Some("#! /usr/bin/env  python3 -u \nprint()\n"),
            ),
        ] {
            let command = HostCommand::parse(text, None).unwrap();
            assert_eq!(
                (&command.argv[..], command.script.as_deref()),
                (&argv.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()[..], script),
                "{text}"
            );
        }
        let long = "x".repeat(LONGEST_ARGUMENT);
        let command = HostCommand::parse(&long, None).unwrap();
        assert_eq!((command.argv, command.script), (vec!["/bin/sh".to_owned()], Some(long)));
    }

    #[test]
    fn only_of_a_simple_command_it_is_known_what_it_runs() {
        for (text, program) in [
            ("train --epochs 40", Some("train")),
            ("/opt/a-b_c.sh x=1", Some("/opt/a-b_c.sh")),
            ("A=1 train", None),
            ("train || true", None),
            ("train\nother", None),
            ("$TRAIN", None),
            ("'train'", None),
            ("# nothing", None),
            ("train > log", None),
            ("{ train; }", None),
        ] {
            assert_eq!(HostCommand::parse(text, None).unwrap().program.as_deref(), program, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_told() {
        for (text, why) in [
            (" \n", "it is empty"),
            ("echo \0", "a zero byte"),
            ("#!python3\nprint()", "`#!python3` names no interpreter"),
            ("#!\necho", "`#!` names no interpreter"),
        ] {
            let error = HostCommand::parse(text, None).unwrap_err();
            assert!(error.starts_with("host-command: ") && error.contains(why), "{text:?}: {error}");
        }
        for name in ["", "a b", "-a", "a:b", "a/b"] {
            assert!(user(name).is_err(), "{name:?}");
        }
        assert!(["root", "1000", "a.b_c-d", "sa_123@x.y"].iter().all(|name| user(name).is_ok()));
    }
}
