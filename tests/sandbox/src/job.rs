//! An image to run where none can be pulled: one static program, `job/main.rs`, and hardly a file more.
//!
//! The Engine is spoken to by the docker command line, which is not what the agent uses.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::process::{Command, Stdio};

use tar::{EntryType, Header};

/// The program, for this machine's processor.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/job"));

const PASSWD: &[u8] = b"root:x:0:0:root:/:/bin/job\nnobody:x:65534:65534:nobody:/:/bin/job\n";

const CONFIG: [&str; 3] = [r#"ENTRYPOINT ["/job"]"#, "ENV PATH=/bin", "WORKDIR /"];

/// Makes sure that the Engine has the image, the one that `DOCKER_HOST` or docker's context says, and
/// answers its name. The entrypoint is the program; it is at `/bin/job` too. It blocks for a moment.
///
/// Two that make it at once both succeed; the name is the last one's, and the images do not differ.
///
/// # Errors
/// When docker is missing, cannot reach the Engine, or fails.
pub fn image() -> io::Result<String> {
    image_by(|| Command::new("docker"))
}

/// The same in the Engine at an address such as `unix:///run/private.sock`.
///
/// # Errors
/// As [`image`].
pub fn image_on(engine: &str) -> io::Result<String> {
    image_by(|| {
        let mut docker = Command::new("docker");
        docker.args(["--host", engine]);
        docker
    })
}

fn image_by(docker: impl Fn() -> Command) -> io::Result<String> {
    let files = files()?;
    let mut hasher = DefaultHasher::new();
    (&files, CONFIG).hash(&mut hasher);
    let name = format!("longrun-sandbox-job:{:016x}", hasher.finish());

    let inspected = docker().args(["image", "inspect", &name]).output().map_err(|error| missing(&error))?;
    if !inspected.status.success() {
        import(docker(), &name, &files)?;
    }
    Ok(name)
}

fn import(mut docker: Command, name: &str, files: &[u8]) -> io::Result<()> {
    docker.arg("import");
    for change in CONFIG {
        docker.args(["--change", change]);
    }
    docker.args(["-", name]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut docker = docker.spawn().map_err(|error| missing(&error))?;
    let written = docker.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(files));
    let output = docker.wait_with_output()?;
    if output.status.success() {
        return written;
    }
    // A pipe that broke is but the shadow of what docker says.
    let message = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("docker import: {}", message.trim())))
}

fn missing(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the docker command line, which makes the job's image: {error}"))
}

/// The image's files as a tar archive, the same bytes every time.
fn files() -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        archive.append_data(&mut header(EntryType::Directory, mode, 0), path, io::empty())?;
    }
    let mut file = |path, mode, bytes: &[u8]| {
        archive.append_data(&mut header(EntryType::Regular, mode, bytes.len()), path, bytes)
    };
    file("etc/passwd", 0o644, PASSWD)?;
    file("job", 0o755, PROGRAM)?;
    archive.append_link(&mut header(EntryType::Link, 0o755, 0), "bin/job", "job")?;
    archive.into_inner()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
