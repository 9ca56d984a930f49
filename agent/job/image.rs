//! An image's name, split as the Engine's pull wants it.
//!
//! The grammar is distribution/reference's: `[host[:port]/]path[/path…][:tag][@algorithm:digest]`. It is
//! checked here because a reference becomes part of a request's path.

use std::fmt;

use thiserror::Error;

/// distribution/reference's `NameTotalLengthMax`.
const MOST_NAME: usize = 255;

/// An image reference such as `us-docker.pkg.dev/p/r/image:tag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    text: String,
    /// How much of it is the name.
    name: usize,
    /// Where the digest, or else the tag, begins with its `@` or `:`.
    version: Option<usize>,
}

/// A word that cannot name an image.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    /// Nothing, or blanks.
    #[error("the image is empty; expected a name such as us-docker.pkg.dev/project/repository/image:tag")]
    Empty,
    /// Not of a reference's form.
    #[error("image `{0}` has {1}; expected [registry/]name[:tag][@digest], the name in lower case")]
    Malformed(String, &'static str),
}

impl ImageReference {
    /// Reads a reference.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if text.trim().is_empty() {
            return Err(ImageError::Empty);
        }
        let check = |good: bool, what| match good {
            true => Ok(()),
            false => Err(ImageError::Malformed(text.chars().take(MOST_NAME).collect(), what)),
        };
        let (tagged, digest) = match text.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (text, None),
        };
        let last_part = tagged.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match tagged[last_part..].split_once(':') {
            Some((part, tag)) => (&tagged[..last_part + part.len()], Some(tag)),
            None => (tagged, None),
        };
        let path = match registry_of(name) {
            Some(registry) => {
                check(is_host(registry), "a registry that is no host")?;
                &name[registry.len() + 1..]
            }
            None => name,
        };
        check(!path.contains(|c: char| c.is_ascii_uppercase()), "an upper-case letter in its name")?;
        check(path.split('/').all(is_component), "a part that is no name")?;
        check(name.len() <= MOST_NAME, "a name of more than 255 characters")?;
        check(tag.is_none_or(is_tag), "a tag that is none")?;
        check(digest.is_none_or(is_digest), "a digest that is none")?;
        let version = digest.map(|_| tagged.len()).or(tag.map(|_| name.len()));
        Ok(Self { text: text.to_owned(), name: name.len(), version })
    }

    /// The reference as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The reference without its tag and digest.
    pub fn name(&self) -> &str {
        &self.text[..self.name]
    }

    /// The digest if there is one, else the tag, else `latest`: without any, a pull takes all tags.
    pub fn version(&self) -> &str {
        self.version.map_or("latest", |at| &self.text[at + 1..])
    }

    /// The registry's host (and port), `None` for Docker Hub's short names.
    pub fn registry(&self) -> Option<&str> {
        registry_of(self.name())
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first part of a path is a host if it could not be a user of Docker Hub.
fn registry_of(path: &str) -> Option<&str> {
    let (first, _) = path.split_once('/')?;
    let is_host =
        first.contains(['.', ':', '[']) || first == "localhost" || first.contains(|c: char| c.is_uppercase());
    is_host.then_some(first)
}

/// `example.com`, `localhost:5000`, `[::1]:5000`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, "0"),
    };
    let name = |host: &str| {
        host.split('.').all(|label| {
            label.starts_with(|c: char| c.is_ascii_alphanumeric())
                && label.ends_with(|c: char| c.is_ascii_alphanumeric())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    super::go::digits::<u64>(port).is_some()
        && address.map_or_else(|| name(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    text.starts_with(alphanumeric) && text.ends_with(alphanumeric) && text.split(alphanumeric).all(separator)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(text: &str) -> bool {
    let (algorithm, hex) = text.split_once(':').unwrap_or((text, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_into_registry_name_and_version() {
        check("ubuntu", None, "ubuntu", "latest");
        check("ubuntu:24.04", None, "ubuntu", "24.04");
        check("library/ubuntu", None, "library/ubuntu", "latest");
        check("localhost/a", Some("localhost"), "localhost/a", "latest");
        check("127.0.0.1:5000/a", Some("127.0.0.1:5000"), "127.0.0.1:5000/a", "latest");
        check("h:5000/a/b:1", Some("h:5000"), "h:5000/a/b", "1");
        check("[::1]:5000/a", Some("[::1]:5000"), "[::1]:5000/a", "latest");
        check("a.b_c__d---e", None, "a.b_c__d---e", "latest");
        let digest = format!("sha256:{}", "0a".repeat(32));
        check(&format!("gcr.io/p/i@{digest}"), Some("gcr.io"), "gcr.io/p/i", &digest);
        check(&format!("gcr.io/p/i:1@{digest}"), Some("gcr.io"), "gcr.io/p/i", &digest);
        check("us-docker.pkg.dev/p/r/i:v1", Some("us-docker.pkg.dev"), "us-docker.pkg.dev/p/r/i", "v1");
    }

    #[test]
    fn a_word_that_names_no_image_is_refused() {
        for bad in [
            "",
            " ",
            "a b",
            "/a",
            "a/",
            "a//b",
            "Ubuntu",
            "gcr.io/P/i",
            "a:",
            "a@",
            "@sha256:ab",
            ":1",
            "a@sha256:ab",
            "a?b",
            "a#b",
            "a%2e",
            "../a",
            "a/..",
            "a/./b",
            "a..b",
            "-a",
            "a-",
            "a:-1",
            "a:b/c:d:e",
            "h:port/a",
            "-h.io/a",
            "h..io/a",
            "user@gcr.io/a",
            "a\u{e9}",
            "a\0b",
        ] {
            assert!(ImageReference::parse(bad).is_err(), "{bad:?} was taken");
        }
        assert!(
            ImageReference::parse(&"a".repeat(256)).is_err()
                && ImageReference::parse(&"a".repeat(255)).is_ok()
        );
    }

    #[track_caller]
    fn check(text: &str, registry: Option<&str>, name: &str, version: &str) {
        let image = ImageReference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((image.registry(), image.name(), image.version()), (registry, name, version), "{text}");
        assert_eq!(image.to_string(), text);
    }
}
