//! Programs of others that judge the fakes and the agent, found or fetched once and kept in cargo's target
//! folder.
//!
//! What is made under a name of its own and then given its lasting name by a rename needs no lock: of two
//! that make it at once both succeed, and what a killed one leaves behind is in nobody's way.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, PoisonError};

/// Where they are kept.
const FOLDER: &str = env!("SANDBOX_TOOLS");

/// One maker at a time in this process: the others find what it made.
static MAKING: Mutex<()> = Mutex::new(());

/// A Python environment that has these packages, written as pip takes them: `google-auth==2.40.3`. Its
/// interpreter is `bin/python` below the folder. It blocks, and the first time that takes a while.
///
/// # Errors
/// When there is no Python 3 with venv, or pip cannot get a package.
pub fn venv(packages: &[&str]) -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    packages.hash(&mut hasher);
    kept(&format!("venv-{:016x}", hasher.finish()), |folder| {
        run(
            Command::new("python3").args(["-m", "venv"]).arg(folder),
            "Debian: apt-get install python3-venv",
        )?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]).args(packages);
        run(&mut pip, "the packages come from the index that pip is set up for")
    })
}

/// The program `docker-registry` of Debian, which needs no root and no service.
///
/// # Errors
/// When it is neither on the PATH nor to be had from Debian's archive.
pub fn docker_registry() -> io::Result<PathBuf> {
    on_path_or_in_package("docker-registry", "docker-registry")
}

/// Google's own program that runs startup scripts, of Debian's `google-guest-agent`, which is not installed for it: it
/// would take this machine for a VM.
///
/// # Errors
/// When it is neither on the PATH nor to be had from Debian's archive.
pub fn script_runner() -> io::Result<PathBuf> {
    on_path_or_in_package("google_metadata_script_runner", "google-guest-agent")
}

fn on_path_or_in_package(program: &str, package: &str) -> io::Result<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut installed = std::env::split_paths(&paths).map(|path| path.join(program));
    if let Some(installed) = installed.find(|file| file.is_file()) {
        return Ok(installed);
    }
    Ok(package_of_debian(package)?.join("usr/bin").join(program))
}

/// A package of Debian's, unpacked and not installed: nothing of it is started.
///
/// # Errors
/// When it is not to be had from Debian's archive.
pub fn package_of_debian(package: &str) -> io::Result<PathBuf> {
    let hint = &format!("install {package} (Debian: apt-get install {package})");
    kept(package, |folder| {
        fs::create_dir_all(folder)?;
        run(Command::new("apt-get").args(["download", package]).current_dir(folder), hint)?;
        let files = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        let mut files = files.into_iter().map(|file| file.path());
        let package = files.find(|file| file.extension().is_some_and(|kind| kind == "deb"));
        let package =
            package.ok_or_else(|| io::Error::other(format!("apt-get downloaded nothing; {hint}")))?;
        run(Command::new("dpkg").arg("-x").arg(package).arg(folder), hint)
    })
}

/// What is kept under the name; if nothing is, then what `make` makes in the folder that it gets.
fn kept(name: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let lasting = Path::new(FOLDER).join(name);
    if !lasting.exists() {
        let own = Path::new(FOLDER).join(format!("{name}.{}", process::id()));
        let link = own.with_extension("link");
        fs::create_dir_all(FOLDER)?;
        make(&own).inspect_err(|_| drop(fs::remove_dir_all(&own)))?;
        // The link moves, not the folder: a Python environment has its own path written into it.
        symlink(&own, &link)?;
        fs::rename(&link, &lasting)?;
    }
    lasting.canonicalize()
}

fn run(command: &mut Command, hint: &str) -> io::Result<()> {
    let program = command.get_program().display().to_string();
    let failed = |why: &str| io::Error::other(format!("{program}: {why}; {hint}"));
    let output = command.output().map_err(|error| failed(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}
