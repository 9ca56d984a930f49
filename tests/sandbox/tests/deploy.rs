//! What `deploy/` has beside the workflows, as far as it can be judged without Google.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sandbox::tools;
use serde_json::Value;

/// What cloud-init imports.
const CLOUD_INIT: [&str; 8] = [
    "configobj==5.0.9",
    "jinja2==3.1.6",
    "jsonpatch==1.33",
    "jsonschema==4.26.0",
    "netifaces==0.11.0",
    "oauthlib==3.3.1",
    "pyyaml==6.0.3",
    "requests==2.33.0",
];
const HCL: [&str; 1] = ["python-hcl2==7.3.1"];

/// Terraform's files as one JSON object.
const READ_HCL: &str = "
import hcl2, json, sys
print(json.dumps([hcl2.load(open(path)) for path in sys.argv[1:]]))
";

/// Cloud Build's fields by its discovery document: prints those that it does not know.
const CLOUD_BUILD: &str = r#"
import importlib.resources, json, sys, yaml
path = importlib.resources.files("workflows_emulator") / "discovery_documents" / "cloudbuild_v1.json"
schemas = json.loads(path.read_text())["schemas"]
def check(value, schema, where):
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    if isinstance(value, dict) and "properties" in schema:
        for name, part in value.items():
            if name not in schema["properties"]:
                print(f"{where}.{name} is unknown")
            else:
                check(part, schema["properties"][name], f"{where}.{name}")
    elif isinstance(value, list):
        if schema.get("type") != "array":
            print(f"{where} is no list")
        else:
            [check(part, schema["items"], where) for part in value]
    elif not isinstance(value, dict):
        wanted = {"string": str, "integer": int, "boolean": bool, "array": list}.get(schema.get("type"))
        if wanted and not isinstance(value, wanted):
            print(f"{where} is no {schema['type']}")
        if "enum" in schema and value not in schema["enum"]:
            print(f"{where}: {value} is none of {schema['enum']}")
build = yaml.safe_load(open(sys.argv[1]))
check(build, {"$ref": "Build"}, "build")
print(json.dumps(sorted(build["substitutions"])), file=sys.stderr)
"#;

#[test]
fn cloud_init_takes_its_file() {
    let packages = tools::package_of_debian("cloud-init").expect("cloud-init");
    let python = tools::venv(&CLOUD_INIT).expect("what cloud-init imports").join("bin/python");
    let schema = |file: &Path| {
        let mut cloud_init = Command::new(&python);
        cloud_init.env("PYTHONPATH", packages.join("usr/lib/python3/dist-packages"));
        cloud_init.args(["-m", "cloudinit.cmd.main", "schema", "-c"]).arg(file).output().expect("it runs")
    };
    let good = schema(&deploy("cloud-init.yaml"));
    assert!(good.status.success(), "{good:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.yaml");
    fs::write(&bad, read("cloud-init.yaml").replace("permissions:", "permission:")).expect("a file");
    assert!(!schema(&bad).status.success());
}

#[test]
fn systemd_takes_the_unit() {
    let folder = tempfile::tempdir().expect("a folder");
    let verify = |text: &str| {
        let unit = folder.path().join("longrun-agent.service");
        fs::write(&unit, text).expect("a file");
        Command::new("systemd-analyze")
            .arg("verify")
            .arg(unit)
            .output()
            .expect("systemd-analyze (Debian: systemd)")
    };
    for unit in [file_in_cloud_init("longrun-agent.service"), read("longrun-agent.service")] {
        // Only the names of the programs and of other units differ from a VM's.
        let good = verify(&unit);
        let said = String::from_utf8_lossy(&good.stderr).into_owned();
        let about_the_unit = |line: &&str| line.contains("longrun-agent.service:");
        let expected = |line: &&str| !line.contains("is not executable") && !line.contains("docker.service");
        assert_eq!(said.lines().filter(about_the_unit).filter(expected).collect::<Vec<_>>(), [""; 0]);
        let bad = verify(&unit.replace("RestartSec=", "RestartSecs="));
        assert!(String::from_utf8_lossy(&bad.stderr).contains("RestartSecs"), "{bad:?}");
    }
}

#[test]
fn the_agent_is_started_alike_everywhere() {
    let options = |text: &str| {
        let (_, rest) =
            text.split_once("--network host").unwrap_or_else(|| panic!("no docker run in {text}"));
        let words = rest.split_whitespace().filter(|word| *word != "\\");
        words
            .take_while(|word| !word.contains("longrun-agent") && !word.starts_with(['"', '$']))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let script = options(&read("startup-script.sh"));
    assert!(script.len() > 6, "{script:?}");
    assert_eq!(options(&file_in_cloud_init("longrun-agent.service")), script);
    assert_eq!(options(&read("../README.md")), script);

    // More only for a job that is a command of the VM's own.
    let right = "--pid=host --privileged";
    assert!(read("../README.md").contains(right));
    for script in [read("startup-script.sh"), file_in_cloud_init("pull.sh")] {
        let lines: Vec<_> = script.lines().filter(|line| line.contains("privileged")).collect();
        let condition = "if ask attributes/host-command >/dev/null 2>&1; then";
        assert_eq!(lines, [format!("{condition} host=\"{right}\"; fi")]);
    }
    assert!(read("startup-script.sh").contains(" $host \"$image\""));
    assert!(file_in_cloud_init("longrun-agent.service").contains(" $(cat /run/longrun/host) "));
}

#[test]
fn the_units_script_logs_in_as_the_startup_script_does() {
    let (script, pull) = (read("startup-script.sh"), file_in_cloud_init("pull.sh"));
    for (part, end) in
        [("set -o pipefail", "\n}"), ("ask() {", "\n}"), ("log_in() {", "\n}"), ("image=$(ask", "\n")]
    {
        let block = |text: &str| {
            let at = text.find(&format!("\n{part}")).unwrap_or_else(|| panic!("{part}"));
            text[at + 1..].split(end).next().expect("a block").to_owned()
        };
        assert_eq!(block(&script), block(&pull), "{part}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pull.sh");
    fs::write(&file, pull).expect("a file");
    let linted = Command::new("shellcheck")
        .arg(file)
        .output()
        .expect("shellcheck (Debian: apt-get install shellcheck)");
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
}

#[test]
fn terraforms_references_lead_somewhere() {
    let blocks = terraform();
    let names = |kind: &str| -> BTreeSet<String> {
        let all = blocks.iter().filter_map(|file| file[kind].as_array()).flatten();
        all.flat_map(|block| {
            block.as_object().expect("a block").keys().map(|name| unquoted(name)).collect::<Vec<_>>()
        })
        .collect()
    };
    let text = ["main.tf", "outputs.tf", "versions.tf", "variables.tf"]
        .map(|file| read(&format!("terraform/{file}")))
        .concat();
    let variables = names("variable");
    assert!(variables.len() > 5 && names("output").len() > 3);
    assert_eq!(references(&text, "var."), variables, "declared and used");
    let locals: BTreeSet<_> = ["builds", "only_our_vms", "vm", "workflow"].map(str::to_owned).into();
    assert_eq!(references(&text, "local."), locals);
    let mut resources = BTreeSet::new();
    for file in &blocks {
        for block in file["resource"].as_array().into_iter().flatten() {
            for (kind, named) in block.as_object().expect("a block") {
                resources.extend(
                    named
                        .as_object()
                        .expect("a name")
                        .keys()
                        .map(|name| format!("{}.{}", unquoted(kind), unquoted(name))),
                );
            }
        }
    }
    for reference in references(&text, "google_") {
        let resource = format!("google_{reference}");
        if resource.contains('.') {
            assert!(resources.contains(&resource), "{resource} is not there: {resources:?}");
        }
    }
    for declared in variables {
        let (_, block) = text.split_once(&format!("variable \"{declared}\" {{")).expect("its block");
        assert!(block.trim_start().starts_with("description"), "{declared} has no description");
    }
}

#[test]
fn terraform_grants_what_the_readme_says_and_nothing_else() {
    let readme = read("../README.md");
    let table = readme.split("| for | permission | in |").nth(1).expect("the table");
    let rows: Vec<_> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let word = |row: &str, column: usize| {
        row.split('|').nth(column).and_then(|cell| cell.split('`').nth(1)).expect("code").to_owned()
    };
    let needed: BTreeMap<_, _> = rows.iter().map(|row| (word(row, 2), word(row, 3))).collect();
    let text = read("terraform/main.tf");
    let block =
        |start: &str| text.split(start).nth(1).and_then(|rest| rest.split("\n}").next()).expect("a block");
    let quoted =
        |text: &str| -> BTreeSet<String> { text.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
    let permissions = |role: &str| {
        let role = block(&format!("\"google_project_iam_custom_role\" \"{role}\""));
        quoted(role.split("permissions = [").nth(1).expect("permissions"))
    };
    let mut granted = permissions("agent");
    granted.extend(permissions("deleter"));
    for (permission, role) in &needed {
        assert!(granted.remove(permission) || text.contains(&format!("\"{role}\"")), "{permission}");
    }
    assert_eq!(granted, BTreeSet::new(), "more than the README says");
    let workflow = permissions("workflow");
    for method in read("workflow.yaml").split("googleapis.compute.v1.").skip(1) {
        let method = method.split_whitespace().next().expect("a method");
        let permission = format!("compute.{}", method.replace("insert", "create"));
        // Everybody may use the public images.
        assert!(workflow.contains(&permission) || method == "images.getFromFamily", "{permission}");
    }
    for wide in ["roles/owner", "roles/editor", "roles/compute.admin", "allUsers", "google_compute_firewall"]
    {
        assert!(!text.contains(wide), "{wide}");
    }
}

#[test]
fn terraform_has_its_form() {
    let installed =
        Command::new("terraform").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("did not run: terraform is not installed");
        return;
    }
    let mut terraform = Command::new("terraform");
    terraform
        .env("TF_CLI_CONFIG_FILE", "/dev/null")
        .args(["fmt", "-check", "-diff"])
        .arg(deploy("terraform"));
    let formatted = terraform.output().expect("it runs");
    assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stdout));
}

#[test]
fn cloud_build_knows_every_field() {
    let python =
        tools::venv(&["workflows-emulator==1.10.0", "requests==2.33.0"]).expect("it").join("bin/python");
    let check = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("a file");
        Command::new(&python).args(["-c", CLOUD_BUILD]).arg(file.path()).output().expect("it runs")
    };
    let text = read("cloudbuild.yaml");
    let good = check(&text);
    assert!(good.status.success() && good.stdout.is_empty(), "{good:?}");
    let mut declared: BTreeSet<String> = serde_json::from_slice(&good.stderr).expect("names");
    assert!(declared.insert("_TAG".to_owned()), "a tag of its own for each version, so no default");
    assert_eq!(references(&text, "${").into_iter().collect::<BTreeSet<_>>(), declared);
    for (part, bad) in
        [("waitFor:", "waitsFor:"), ("E2_HIGHCPU_8", "E2_HIGHCPU_9"), ("args: [test", "args: test #")]
    {
        assert!(!check(&text.replacen(part, bad, 1)).stdout.is_empty(), "{bad}");
    }
}

#[test]
fn the_walk_through_has_every_argument_and_every_file() {
    let text = read("README.md");
    for (workflow, heading) in [("workflow.yaml", "## Run a job"), ("fan-out.yaml", "## Run many tasks")] {
        let section = text.split(heading).nth(1).expect("a section");
        let rows = section.lines().skip_while(|line| !line.starts_with("| argument")).skip(2);
        let told: BTreeSet<String> = rows
            .take_while(|line| line.starts_with('|'))
            .filter_map(|row| Some(row.split('`').nth(1)?.to_owned()))
            .collect();
        let source = read(workflow);
        let known = source.split("- known:").last().expect("a list").to_owned();
        let known = match known.split_once('[') {
            Some((before, list)) if before.trim().is_empty() => {
                list.split(']').next().expect("its end").replace(',', " ")
            }
            _ => known
                .lines()
                .skip(1)
                .take_while(|line| line.trim_start().starts_with("- "))
                .filter(|line| !line.contains(':'))
                .collect::<String>()
                .replace("- ", " "),
        };
        let own = ["first", "last", "mostFailures"];
        let known: BTreeSet<String> =
            known.split_whitespace().filter(|name| !own.contains(name)).map(str::to_owned).collect();
        assert_eq!(told, known, "{workflow}");
    }
    let folder = deploy("");
    for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().expect("its end")) {
        assert!(link.starts_with("http") || folder.join(link).exists(), "{link}");
    }
    for word in text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("longrun-")) {
        let attribute = word.split(['=', ' ']).next().expect("a word");
        let known = read("../README.md").contains(&format!("| `{attribute}`"))
            || attribute.ends_with("-*")
            || attribute.contains("-env-");
        let accounts = ["longrun-vm", "longrun-workflow", "longrun-build"];
        let account = accounts.contains(&attribute.split('@').next().expect("a word"));
        // The last is how the names of VMs begin.
        assert!(known || account || attribute == "longrun-", "{attribute}");
    }
}

/// The names that follow this in a text.
fn references(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |letter: char| {
        letter.is_ascii_alphanumeric() || letter == '_' || (prefix == "google_" && letter == '.')
    };
    let names =
        text.split(prefix).skip(1).map(|rest| rest.split(|letter| !is_part(letter)).next().expect("a part"));
    names.map(|name| name.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")).collect()
}

fn terraform() -> Vec<Value> {
    let python = tools::venv(&HCL).expect("python-hcl2").join("bin/python");
    let files = ["main.tf", "variables.tf", "outputs.tf", "versions.tf"]
        .map(|file| deploy(&format!("terraform/{file}")));
    let output: Output = Command::new(python).args(["-c", READ_HCL]).args(files).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn unquoted(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

/// A file that cloud-init writes.
fn file_in_cloud_init(name: &str) -> String {
    let text = read("cloud-init.yaml");
    let (_, rest) = text.split_once(&format!("/{name}\n")).expect("the file");
    let (_, content) = rest.split_once("content: |\n").expect("its content");
    let lines = content.lines().take_while(|line| line.is_empty() || line.starts_with("      "));
    lines.map(|line| line.get(6..).unwrap_or_default().to_owned() + "\n").collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file)
}
