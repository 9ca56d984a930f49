//! `longrun-secret-env-NAME`: which version of which secret becomes which variable.
//!
//! Leaves out the values, which are Secret Manager's (`google::secrets`).
//!
//! Source of the forms: `gcloud secrets versions access`, Cloud Run's `--set-secrets` and Cloud Build's
//! `availableSecrets`; of the names, cloud.google.com/secret-manager/docs/reference/rest.

use std::fmt;

/// The attribute's name without the variable's.
pub(crate) const ATTRIBUTE: &str = "longrun-secret-env-";

const LATEST: &str = "latest";
const EXPECTED: &str = "a secret of the VM's project such as `api-key` or `api-key:3`, or `projects/PROJECT/secrets/NAME/versions/VERSION`";

/// A variable whose value is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEnv {
    /// The variable.
    pub name: String,
    /// Where its value is.
    pub version: SecretVersion,
}

/// One version of a secret; its Display is what the attribute says, in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    /// The project's id or number; without one it is the VM's.
    pub project: Option<String>,
    /// The secret's name.
    pub secret: String,
    /// A number, an alias, or `latest`.
    pub version: String,
}

impl SecretVersion {
    /// Reads `S`, `S:V`, `S/versions/V`, and each of these after `projects/P/secrets/`. The error says what was
    /// expected; it does not quote the text, which may be the secret itself by mistake.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let (project, rest) = match parts[..] {
            ["projects", _, "locations", ..] => {
                return Err("a secret without a location; regional secrets cannot be read yet".to_owned());
            }
            ["projects", project, "secrets", ref rest @ ..] => (Some(project), rest),
            ref rest => (None, rest),
        };
        let (secret, version) = match rest {
            [secret, "versions", version] => (*secret, *version),
            [secret] => secret.split_once(':').unwrap_or((secret, LATEST)),
            _ => return Err(EXPECTED.to_owned()),
        };
        match project.is_none_or(is_project) && is_secret(secret) && is_version(version) {
            true => Ok(Self {
                project: project.map(str::to_owned),
                secret: secret.to_owned(),
                version: version.to_owned(),
            }),
            false => Err(EXPECTED.to_owned()),
        }
    }

    /// The version's resource name, `projects/P/secrets/S/versions/V`; `None` if nobody says in which project it
    /// is.
    pub fn resource(&self, project_of_vm: Option<&str>) -> Option<String> {
        let project = self.project.as_deref().or(project_of_vm)?;
        Some(format!("projects/{project}/secrets/{}/versions/{}", self.secret, self.version))
    }
}

impl fmt::Display for SecretVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resource(None) {
            Some(resource) => write!(f, "{resource}"),
            None => write!(f, "{}:{}", self.secret, self.version),
        }
    }
}

/// Whether a shell and every language can name such a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// An id such as `my-project`, a number, or the older `example.com:my-project`.
fn is_project(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte))
}

fn is_secret(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(is_in_names)
}

/// A number, `latest`, or an alias, which begins with a letter and has 63 characters at most.
fn is_version(text: &str) -> bool {
    let alias = text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(is_in_names);
    let number = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    (1..=63).contains(&text.len()) && (alias || number)
}

fn is_in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_as_gcloud_and_cloud_run_name_it() {
        for (text, resource) in [
            ("key", "projects/vm/secrets/key/versions/latest"),
            ("key:7", "projects/vm/secrets/key/versions/7"),
            ("key:latest", "projects/vm/secrets/key/versions/latest"),
            ("Key_1:prod-2", "projects/vm/secrets/Key_1/versions/prod-2"),
            ("key/versions/7", "projects/vm/secrets/key/versions/7"),
            ("projects/p/secrets/key", "projects/p/secrets/key/versions/latest"),
            ("projects/p/secrets/key:7", "projects/p/secrets/key/versions/7"),
            ("projects/p/secrets/key/versions/7", "projects/p/secrets/key/versions/7"),
            ("projects/421337/secrets/key", "projects/421337/secrets/key/versions/latest"),
            ("projects/example.com:p/secrets/key", "projects/example.com:p/secrets/key/versions/latest"),
        ] {
            let version = SecretVersion::parse(text).unwrap();
            assert_eq!(version.resource(Some("vm")).as_deref(), Some(resource), "{text}");
        }
    }

    #[test]
    fn what_names_no_version_is_refused_without_being_quoted() {
        for text in [
            "",
            ":1",
            "key:",
            "key:0",
            "key:007",
            "key:1.5",
            "key:-1",
            "key/1",
            "key/versions/",
            "key:1/versions/1",
            "s3cr3t!",
            "two words",
            "../x",
            "projects//secrets/key",
            "projects/../secrets/key",
            "projects/p?x/secrets/key",
            "projects/p/secrets/",
            "projects/p/secrets/key/versions/7/more",
            "projects/p/topics/key",
            "//secretmanager.googleapis.com/projects/p/secrets/key",
        ] {
            assert_eq!(SecretVersion::parse(text), Err(EXPECTED.to_owned()), "{text}");
        }
        let regional = SecretVersion::parse("projects/p/locations/l/secrets/key").unwrap_err();
        assert!(regional.contains("regional secrets cannot be read yet"), "{regional}");
    }

    #[test]
    fn without_a_project_a_version_has_no_resource_name() {
        let version = SecretVersion::parse("key").unwrap();
        assert_eq!((version.resource(None), version.to_string()), (None, "key:latest".to_owned()));
        let version = SecretVersion::parse("projects/p/secrets/key").unwrap();
        assert_eq!(version.to_string(), "projects/p/secrets/key/versions/latest");
    }

    #[test]
    fn a_variable_has_a_name_that_a_shell_can_use() {
        assert!(["KEY", "_key", "K2"].into_iter().all(is_variable));
        assert!(!["2K", "a-b", "a.b", "é"].into_iter().any(is_variable));
    }
}
