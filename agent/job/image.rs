//! An image's name, split as the Engine's pull wants it.
//!
//! Leaves out checking every character: the Engine does, and its answer is reported.

use std::fmt;

use thiserror::Error;

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
    /// Has a character that no reference has.
    #[error("image `{0}` has {1}; expected lower-case [registry/]name[:tag|@digest]")]
    Malformed(String, &'static str),
}

impl ImageReference {
    /// Reads a reference (distribution/reference: `[host[:port]/]path[:tag][@digest]`).
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if text.trim().is_empty() {
            return Err(ImageError::Empty);
        }
        let malformed = |what| Err(ImageError::Malformed(text.to_owned(), what));
        let name_end = text.find('@').unwrap_or(text.len());
        let path_start = text[..name_end].rfind('/').map_or(0, |slash| slash + 1);
        let tag = text[path_start..name_end].find(':').map(|colon| path_start + colon);
        let version = (name_end < text.len()).then_some(name_end).or(tag);
        let name = tag.unwrap_or(name_end);
        let path = &text[..name];
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return malformed("a blank in it");
        }
        if path.is_empty() || path.starts_with('/') || path.ends_with('/') || path.contains("//") {
            return malformed("an empty part");
        }
        let repository =
            if registry_of(path).is_some() { &path[path.find('/').unwrap_or(0)..] } else { path };
        if repository.contains(|c: char| c.is_ascii_uppercase()) {
            return malformed("an upper-case letter in its name");
        }
        if version.is_some_and(|at| at + 1 == text.len()) {
            return malformed("an empty tag or digest");
        }
        Ok(Self { text: text.to_owned(), name, version })
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
    (first.contains(['.', ':']) || first == "localhost").then_some(first)
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
        check("gcr.io/p/i@sha256:ab", Some("gcr.io"), "gcr.io/p/i", "sha256:ab");
        check("gcr.io/p/i:1@sha256:ab", Some("gcr.io"), "gcr.io/p/i", "sha256:ab");
        check("us-docker.pkg.dev/p/r/i:v1", Some("us-docker.pkg.dev"), "us-docker.pkg.dev/p/r/i", "v1");
    }

    #[test]
    fn a_word_that_names_no_image_is_refused() {
        for bad in
            ["", " ", "a b", "/a", "a/", "a//b", "Ubuntu", "gcr.io/P/i", "a:", "a@", "@sha256:ab", ":1"]
        {
            assert!(ImageReference::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[track_caller]
    fn check(text: &str, registry: Option<&str>, name: &str, version: &str) {
        let image = ImageReference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((image.registry(), image.name(), image.version()), (registry, name, version), "{text}");
        assert_eq!(image.to_string(), text);
    }
}
