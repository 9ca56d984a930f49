//! The metadata server's values, a tree of folders, and how it writes them. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// A folder or a value.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Node {
    Folder(Names, BTreeMap<String, Self>),
    Text(String),
    Number(u64),
    /// Written one a line: scopes, aliases.
    Lines(Vec<String>),
    /// Written as JSON: the VM's tags.
    List(Vec<String>),
    /// Made when it is asked for, the token; no part of what a recursive request answers.
    Live,
}

/// What becomes of the names of a folder in JSON.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Names {
    /// Google's own: `machine-type` is written `machineType`.
    Google,
    /// Somebody's: attributes and service accounts are left as they are.
    Verbatim,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    Json,
    Text,
}

impl Node {
    pub(crate) fn folder<const N: usize>(names: Names, nodes: [(&str, Self); N]) -> Self {
        Self::Folder(names, nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
    }

    pub(crate) fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    pub(crate) fn find(&self, path: &[&str]) -> Option<&Self> {
        match (path, self) {
            ([], node) => Some(node),
            ([name, below @ ..], Self::Folder(_, nodes)) => nodes.get(*name)?.find(below),
            ([_, ..], Self::Text(_) | Self::Number(_) | Self::Lines(_) | Self::List(_) | Self::Live) => None,
        }
    }

    /// Puts a value there, with the folders that lead to it; none removes what is there.
    pub(crate) fn set(&mut self, path: &[&str], value: Option<Self>) {
        let Self::Folder(names, nodes) = self else { panic!("{path:?} lies below a value") };
        match (path, value) {
            ([], _) => panic!("the path of a value names it"),
            ([name], Some(value)) => drop(nodes.insert((*name).to_owned(), value)),
            ([name], None) => drop(nodes.remove(*name)),
            ([name, below @ ..], value) => nodes
                .entry((*name).to_owned())
                .or_insert_with(|| Self::Folder(*names, BTreeMap::new()))
                .set(below, value),
        }
    }

    /// Changes when anything below changes.
    pub(crate) fn etag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// The form it has when nobody asks for another.
    pub(crate) fn usual_format(&self) -> Format {
        match self {
            Self::Folder(..) | Self::List(_) => Format::Json,
            Self::Text(_) | Self::Number(_) | Self::Lines(_) | Self::Live => Format::Text,
        }
    }

    /// The entries of a folder, one a line, folders with a slash at their end.
    pub(crate) fn listing(&self) -> String {
        let Self::Folder(_, nodes) = self else { return String::new() };
        let slash = |node: &Self| if matches!(node, Self::Folder(..)) { "/" } else { "" };
        nodes.iter().map(|(name, node)| format!("{name}{}\n", slash(node))).collect()
    }

    /// All of it in that form.
    pub(crate) fn write(&self, format: Format) -> String {
        match (format, self) {
            (Format::Json, node) => node.json().unwrap_or_default().to_string(),
            (Format::Text, Self::Folder(..)) => self.lines("").concat(),
            (Format::Text, Self::Text(text)) => text.clone(),
            (Format::Text, Self::Number(number)) => number.to_string(),
            (Format::Text, Self::Lines(lines) | Self::List(lines)) => lines.join("\n"),
            (Format::Text, Self::Live) => String::new(),
        }
    }

    fn json(&self) -> Option<Value> {
        match self {
            Self::Folder(names, nodes) => Some(
                nodes.iter().filter_map(|(name, node)| Some((names.in_json(name), node.json()?))).collect(),
            ),
            Self::Text(text) => Some(text.as_str().into()),
            Self::Number(number) => Some((*number).into()),
            Self::Lines(list) | Self::List(list) => Some(list.as_slice().into()),
            Self::Live => None,
        }
    }

    /// `attributes/foo bar`, a value a line.
    fn lines(&self, at: &str) -> Vec<String> {
        let Self::Folder(_, nodes) = self else {
            return vec![format!("{at} {}\n", self.write(Format::Text))];
        };
        let kept = nodes.iter().filter(|(_, node)| !matches!(node, Self::Live));
        let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        kept.flat_map(|(name, node)| node.lines(&below(name))).collect()
    }
}

impl Names {
    fn in_json(self, name: &str) -> String {
        match self {
            Self::Verbatim => name.to_owned(),
            Self::Google => {
                let mut words = name.split('-');
                let first = words.next().unwrap_or_default().to_owned();
                words.fold(first, |name, word| match word.split_at_checked(1) {
                    Some((initial, rest)) => name + &initial.to_uppercase() + rest,
                    None => name + word,
                })
            }
        }
    }
}
