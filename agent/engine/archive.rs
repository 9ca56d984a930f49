//! A file out of a container, by the Engine's archive call.
//!
//! Seen on Engine 20.10: what the path is stands in a header of the answer, before any of its content; files of
//! volumes and bind mounts are there after the container's end, those of a tmpfs are not; a symbolic link is
//! answered as such, with its target followed to the end of the chain and kept inside the container.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use thiserror::Error;

use super::{Container, EngineError, QUICK, call, patiently, tar};
use crate::http;

const DOING: &str = "reading a file of the container";
/// What an archive may hold beside the file: its headers, and what extended ones say of it.
const MOST_BESIDE: usize = 64 << 10;

/// Why there is no file; said of it, as in "the file `is not there`".
#[derive(Debug, Error)]
pub enum FileError {
    /// Nothing has that path.
    #[error("is not there")]
    Missing,
    /// A link that leads to nothing.
    #[error("is a symbolic link to {target}, which is not there")]
    Dangling {
        /// Where it leads, in the container.
        target: String,
    },
    /// Something else has that path.
    #[error("is {0}")]
    NotAFile(&'static str),
    /// It is larger than is wanted.
    #[error("has {size} bytes, and {most} is the most")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The most that is wanted.
        most: usize,
    },
    /// The Engine did not hand it out.
    #[error("could not be read: {}", http::chain(.0))]
    Engine(#[from] EngineError),
}

/// What is at a path.
#[derive(Debug)]
enum Found {
    File(Vec<u8>),
    /// A file of so many bytes.
    TooLarge(u64),
    /// A link, and where it leads.
    Link(String),
    Other(&'static str),
}

/// The header `X-Docker-Container-Path-Stat`, JSON in base64.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathStat {
    size: u64,
    /// Go's `fs.FileMode`.
    mode: u32,
    #[serde(default)]
    link_target: String,
}

impl Container {
    /// The content of the file at `path`, of `most` bytes at most, whether the container runs or not. A symbolic
    /// link is followed inside the container. `patience` is for an Engine that is away.
    pub async fn file(&self, path: &str, most: usize, patience: Duration) -> Result<Vec<u8>, FileError> {
        let target = match self.find_file(path, most, patience).await? {
            Found::Link(target) => target,
            found => return found.content(most),
        };
        match self.find_file(&target, most, patience).await {
            Err(FileError::Missing) => Err(FileError::Dangling { target }),
            found => found?.content(most),
        }
    }

    async fn find_file(&self, path: &str, most: usize, patience: Duration) -> Result<Found, FileError> {
        match patiently(patience, EngineError::is_away, || self.unpack(path, most)).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Err(FileError::Missing),
            found => Ok(found?),
        }
    }

    async fn unpack(&self, path: &str, most: usize) -> Result<Found, EngineError> {
        let request = self.request(Method::GET, "/archive", &[("path", path)]);
        let answer = call(DOING, QUICK, request).await?;
        let stat = answer.headers().get("X-Docker-Container-Path-Stat");
        let stat = stat.and_then(|stat| PathStat::read(stat.as_bytes()));
        let stat = stat.ok_or_else(|| undecodable("it does not say what is at the path"))?;
        Ok(match stat.kind() {
            Kind::File if stat.size > most as u64 => Found::TooLarge(stat.size),
            Kind::File => Found::File(content(answer, most).await?),
            Kind::Link => Found::Link(stat.link_target),
            Kind::Other(what) => Found::Other(what),
        })
    }
}

impl Found {
    fn content(self, most: usize) -> Result<Vec<u8>, FileError> {
        match self {
            Self::File(content) => Ok(content),
            Self::TooLarge(size) => Err(FileError::TooLarge { size, most }),
            // The Engine followed the first link to its end: somebody has put another one there since.
            Self::Link(_) => Err(FileError::NotAFile("a symbolic link")),
            Self::Other(what) => Err(FileError::NotAFile(what)),
        }
    }
}

/// The file of an archive, of which no more is read than what was announced may take.
async fn content(mut answer: Response, most: usize) -> Result<Vec<u8>, EngineError> {
    let mut archive = Vec::new();
    while archive.len() < most + MOST_BESIDE {
        let chunk = answer.chunk().await;
        match chunk.map_err(|source| EngineError::Unreachable { doing: DOING, source })? {
            Some(chunk) => archive.extend_from_slice(&chunk),
            None => break,
        }
    }
    let file = tar::first_file(&archive).filter(|file| file.len() <= most);
    file.map(<[u8]>::to_vec).ok_or_else(|| undecodable("its archive is not that of the file as a whole"))
}

fn undecodable(why: &str) -> EngineError {
    EngineError::Undecodable { doing: DOING, why: why.to_owned() }
}

/// What a path's mode says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Link,
    Other(&'static str),
}

impl PathStat {
    fn read(header: &[u8]) -> Option<Self> {
        serde_json::from_slice(&BASE64_STANDARD.decode(header).ok()?).ok()
    }

    /// By the bits of Go's `fs.FileMode`.
    fn kind(&self) -> Kind {
        let is = |bit: u32| self.mode & (1 << bit) != 0;
        let [directory, link] = [31, 27].map(is);
        let special = [26, 25, 24, 21, 19].into_iter().any(is);
        match (directory, link, special) {
            (true, _, _) => Kind::Other("a directory"),
            (_, true, _) => Kind::Link,
            (_, _, true) => Kind::Other("a device, a pipe or a socket"),
            (false, false, false) => Kind::File,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_a_path_stands_in_its_mode() {
        // As Engine 20.10 gave them.
        for (mode, kind) in [
            (420_u32, Kind::File),
            (0o777, Kind::File),
            (2_148_532_735, Kind::Other("a directory")),
            (134_218_239, Kind::Link),
            (33_554_852, Kind::Other("a device, a pipe or a socket")),
            (16_777_709, Kind::Other("a device, a pipe or a socket")),
        ] {
            let stat = format!(r#"{{"name":"a","size":7,"mode":{mode},"mtime":"x","linkTarget":"/b"}}"#);
            let stat = PathStat::read(BASE64_STANDARD.encode(stat).as_bytes()).unwrap();
            assert_eq!((stat.kind(), stat.size, &*stat.link_target), (kind, 7, "/b"), "{mode}");
        }
    }

    #[test]
    fn a_header_that_says_nothing_is_none() {
        for header in ["", "e30=", "eyJzaXplIjo3fQ==", "[]", "\u{e9}"] {
            assert!(PathStat::read(header.as_bytes()).is_none(), "{header}");
        }
    }
}
