//! The agent as an image of its own, in a private Engine.
//!
//! What is shipped is one static file (`.ci/check-image`); this one finds its libraries where this machine has them.

use std::{fs, path::Path, process::Command};

use super::private_engine::PrivateEngine;

/// Makes the image of that name; `folder` is for its files.
pub(crate) fn import(engine: &PrivateEngine, name: &str, folder: &Path) {
    let agent = env!("CARGO_BIN_EXE_longrun-agent");
    let root = folder.join("root");
    fs::create_dir_all(&root).expect("a folder");
    fs::copy(agent, root.join("longrun-agent")).expect("the agent's binary");
    let libraries = run("ldd", &[agent]);
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        fs::copy(library, copy).expect("a library");
    }
    let archive = folder.join("agent.tar");
    let [root, archive] = [&root, &archive].map(|path| path.to_str().expect("text"));
    run("tar", &["-C", root, "-cf", archive, "."]);
    engine.docker(&["import", "--change", r#"ENTRYPOINT ["/longrun-agent"]"#, archive, name]);
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("a program of every Debian");
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
