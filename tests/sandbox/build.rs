//! Builds the job of `job/main.rs` as one static file, which the library carries with it.
//!
//! Leaves out machines that are not Linux: what runs in a container is a Linux program.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=job/main.rs");
    let out = PathBuf::from(variable("OUT_DIR"));
    // <target>/<profile>/build/<package>/out
    let target_folder = out.ancestors().nth(4).unwrap_or(&out);
    println!("cargo::rustc-env=SANDBOX_TOOLS={}", target_folder.join("sandbox-tools").display());
    build_job(&out.join("job"));
}

fn build_job(file: &Path) {
    let target = variable("TARGET");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "job", "--target", &target]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", Path::new(&linker).display()));
    }
    let built = rustc.arg("-o").arg(file).arg("job/main.rs").status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "the sandbox's job does not build as a static file for {target}; with glibc that takes the static C \
         library (Debian: libc6-dev, Fedora: glibc-static)"
    );
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for a build script"))
}
