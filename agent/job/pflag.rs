//! Reads command-line words as pflag does, the library behind the docker CLI.
//!
//! Leaves out what a flag means: this gives each flag its value as text.
//!
//! The rules (pflag's `parseLongArg` and `parseSingleShortArg`, with interspersed arguments off, as
//! `docker run` has them): `--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-f=value`; switches take
//! no word but may be given a value by `=`; short switches may be bundled, the last of a bundle may take a
//! value; no abbreviations; `--` ends the flags and so does the first word that is none.

use thiserror::Error;

/// What the reader must know of a flag.
pub(crate) trait Named {
    /// The long name, without its dashes.
    fn name(&self) -> &'static str;
    /// The short name, without its dash.
    fn short(&self) -> Option<char>;
    /// Whether the flag stands alone (`--rm`) rather than taking the next word.
    fn is_switch(&self) -> bool;
}

/// One use of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<'t, F> {
    /// The flag, from the table.
    pub(crate) flag: &'t F,
    /// Its value; a switch without one has `true`.
    pub(crate) value: String,
    /// Index of the word in which the flag stands.
    pub(crate) word: usize,
}

/// A word that is no flag of the table, or a flag without its value.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WordError {
    /// A long flag that the table does not have.
    #[error("unknown flag `--{name}`")]
    UnknownLong {
        /// As written.
        name: String,
        /// Index of its word.
        word: usize,
    },
    /// A short flag that the table does not have.
    #[error("unknown flag `-{name}` in `{text}`")]
    UnknownShort {
        /// As written.
        name: char,
        /// The whole word.
        text: String,
        /// Index of its word.
        word: usize,
    },
    /// `--=x`, `---x`.
    #[error("`{text}` is not a flag")]
    Malformed {
        /// The whole word.
        text: String,
        /// Index of its word.
        word: usize,
    },
    /// The command ends where a value is needed.
    #[error("flag `{flag}` needs a value and the command ends there")]
    NoValue {
        /// As written, with its dashes.
        flag: String,
        /// Index of its word.
        word: usize,
    },
}

impl WordError {
    /// Index of the word that is wrong.
    pub(crate) fn word(&self) -> usize {
        match self {
            Self::UnknownLong { word, .. }
            | Self::UnknownShort { word, .. }
            | Self::Malformed { word, .. }
            | Self::NoValue { word, .. } => *word,
        }
    }
}

/// The flags in `words[start..]`, in order, and the index of the first word that is no flag.
pub(crate) fn read<'t, F: Named>(
    table: &'t [F],
    words: &[String],
    start: usize,
) -> Result<(Vec<Given<'t, F>>, usize), WordError> {
    let mut reader = Reader { table, words, next: start, given: Vec::new() };
    while let Some(text) = words.get(reader.next) {
        match text.strip_prefix("--") {
            Some("") => return Ok((reader.given, reader.next + 1)),
            Some(long) => reader.long(text, long)?,
            None => match text.strip_prefix('-') {
                Some("") | None => break,
                Some(shorts) => reader.shorts(text, shorts)?,
            },
        }
    }
    Ok((reader.given, reader.next))
}

struct Reader<'t, 'w, F> {
    table: &'t [F],
    words: &'w [String],
    next: usize,
    given: Vec<Given<'t, F>>,
}

impl<F: Named> Reader<'_, '_, F> {
    fn long(&mut self, text: &str, long: &str) -> Result<(), WordError> {
        let word = self.next;
        self.next += 1;
        if long.starts_with(['-', '=']) {
            return Err(WordError::Malformed { text: text.to_owned(), word });
        }
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let flag = self
            .table
            .iter()
            .find(|flag| flag.name() == name)
            .ok_or_else(|| WordError::UnknownLong { name: name.to_owned(), word })?;
        let value = match value {
            Some(value) => value,
            None if flag.is_switch() => "true".to_owned(),
            None => self.next_word(text, word)?,
        };
        self.given.push(Given { flag, value, word });
        Ok(())
    }

    fn shorts(&mut self, text: &str, mut shorts: &str) -> Result<(), WordError> {
        let word = self.next;
        self.next += 1;
        while let Some(name) = shorts.chars().next() {
            let rest = &shorts[name.len_utf8()..];
            let flag = self
                .table
                .iter()
                .find(|flag| flag.short() == Some(name))
                .ok_or_else(|| WordError::UnknownShort { name, text: text.to_owned(), word })?;
            let value = match rest.strip_prefix('=') {
                // pflag reads a lone `-f=` as `-f` with the value `=`.
                Some(value) if !value.is_empty() => {
                    shorts = "";
                    value.to_owned()
                }
                _ if flag.is_switch() => {
                    shorts = rest;
                    "true".to_owned()
                }
                _ if !rest.is_empty() => {
                    shorts = "";
                    rest.to_owned()
                }
                _ => {
                    shorts = "";
                    self.next_word(&format!("-{name}"), word)?
                }
            };
            self.given.push(Given { flag, value, word });
        }
        Ok(())
    }

    fn next_word(&mut self, flag: &str, word: usize) -> Result<String, WordError> {
        let value = self.words.get(self.next).cloned();
        self.next += 1;
        value.ok_or_else(|| WordError::NoValue { flag: flag.to_owned(), word })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_pflag_reads_them() {
        check("", "", "");
        check("image", "", "image");
        check("--rm image --rm", "rm=true", "image --rm");
        check("--rm=false image", "rm=false", "image");
        check("-it image", "interactive=true tty=true", "image");
        check("-it=false image", "interactive=true tty=false", "image");
        check("-ite A=1 image", "interactive=true tty=true env=A=1", "image");
        check("-iteA=1 image", "interactive=true tty=true env=A=1", "image");
        check("-e=A=1 image", "env=A=1", "image");
        check("-eA image", "env=A", "image");
        check("-e -it image", "env=-it", "image");
        check("--env --rm image", "env=--rm", "image");
        check("--env= image", "env=", "image");
        check("--env=A=1 --env B image", "env=A=1 env=B", "image");
        check("-- -image", "", "-image");
        check("--rm - image", "rm=true", "- image");
    }

    #[test]
    fn a_word_that_cannot_be_read_is_named_with_its_place() {
        refuse("--rm --nope image", "unknown flag `--nope`", 1);
        refuse("--r image", "unknown flag `--r`", 0);
        refuse("-ix image", "unknown flag `-x` in `-ix`", 0);
        refuse("---rm image", "`---rm` is not a flag", 0);
        refuse("--=x image", "`--=x` is not a flag", 0);
        refuse("--rm --env", "flag `--env` needs a value and the command ends there", 1);
        refuse("-ie", "flag `-e` needs a value and the command ends there", 0);
        refuse("-é image", "unknown flag `-é` in `-é`", 0);
    }

    #[test]
    fn pflag_takes_a_lone_equals_sign_after_a_short_flag_as_its_value() {
        check("-e= image", "env==", "image");
        refuse("-i= image", "unknown flag `-=` in `-i=`", 0);
    }

    struct Flag(&'static str, Option<char>, bool);

    impl Named for Flag {
        fn name(&self) -> &'static str {
            self.0
        }
        fn short(&self) -> Option<char> {
            self.1
        }
        fn is_switch(&self) -> bool {
            self.2
        }
    }

    const TABLE: &[Flag] = &[
        Flag("rm", None, true),
        Flag("interactive", Some('i'), true),
        Flag("tty", Some('t'), true),
        Flag("env", Some('e'), false),
    ];

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(line: &str, flags: &str, rest: &str) {
        let words = words(line);
        let (given, next) = read(TABLE, &words, 0).unwrap_or_else(|error| panic!("{line}: {error}"));
        let seen: Vec<_> = given.iter().map(|given| format!("{}={}", given.flag.0, given.value)).collect();
        assert_eq!(seen.join(" "), flags, "{line}");
        assert_eq!(words[next..].join(" "), rest, "{line}");
    }

    #[track_caller]
    fn refuse(line: &str, message: &str, word: usize) {
        let error = read(TABLE, &words(line), 0).err().unwrap_or_else(|| panic!("{line} was taken"));
        assert_eq!((error.to_string().as_str(), error.word()), (message, word), "{line}");
    }
}
