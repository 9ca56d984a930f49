//! The programs of others are there when a suite asks for them.

use std::process::Command;

use sandbox::tools;

#[test]
fn a_registry_is_there() {
    let registry = tools::docker_registry().expect("docker-registry");
    let version = Command::new(registry).arg("--version").output().expect("it runs");
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).contains("docker-registry"));
}

#[test]
fn a_python_environment_is_made_once() {
    let made = tools::venv(&["certifi"]).expect("an environment");
    assert_eq!(tools::venv(&["certifi"]).expect("an environment"), made);
    let imported = Command::new(made.join("bin/python")).args(["-c", "import certifi"]).status();
    assert!(imported.expect("it runs").success());
}

#[test]
fn a_package_that_cannot_be_had_is_named() {
    let error = tools::venv(&["certifi==0.0.0"]).expect_err("there is no such version").to_string();
    assert!(error.contains("certifi==0.0.0"), "{error}");
}
