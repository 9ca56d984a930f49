//! A command line's words, as a POSIX shell splits them, and what of it a shell would have done that nobody
//! does here: no shell runs the line, so nothing is expanded, piped or redirected.

/// A quote that does not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenQuote {
    /// `'` or `"`.
    pub(crate) quote: char,
    /// Its place in the text, in characters from 0.
    pub(crate) at: usize,
    /// The beginning of the word that it stands in, up to its first `=`: what follows is often a secret.
    pub(crate) after: String,
}

/// The words. A metadata value that was typed on Windows has CRLF at its line ends, which would end up in them.
pub(crate) fn split(text: &str) -> Result<Vec<String>, OpenQuote> {
    let text = text.replace("\r\n", "\n");
    // shell-words says only that there is an open quote, not where.
    shell_words::split(&text).map_err(|_| open_quote(&text))
}

fn open_quote(text: &str) -> OpenQuote {
    let open = Scan::new(text).last().and_then(|seen| seen.open_after);
    let (at, quote) = open.unwrap_or((0, '"'));
    let before: String = text.chars().take(at).collect();
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    OpenQuote { quote, at, after: word.split_inclusive('=').next().unwrap_or_default().to_owned() }
}

/// What looks as if a shell should act on it, as it stands in the text: `$NAME`, `$(`, a backquote, `~`, `*`,
/// `|`, `>` and their kin, outside the quotes that would keep a shell from it. Each once.
pub(crate) fn meant_for_a_shell(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let chars: Vec<char> = text.chars().collect();
    for Seen { at, c, open, escaped, .. } in Scan::new(text) {
        let quote = open.map(|(_, quote)| quote);
        let rest = &chars[at + 1..];
        let sign = match c {
            _ if escaped || quote == Some('\'') => None,
            '$' => variable(rest),
            '`' => Some("`".to_owned()),
            _ if quote.is_some() => None,
            '~' if at == 0 || chars[at - 1].is_whitespace() => Some("~".to_owned()),
            '*' | '?' | '|' | ';' | '&' | '<' | '>' => Some(c.to_string()),
            _ => None,
        };
        found.extend(sign.filter(|sign| !found.contains(sign)).into_iter().collect::<Vec<_>>());
    }
    found
}

/// `$NAME`, `${` or `$(`.
fn variable(rest: &[char]) -> Option<String> {
    let is_word = |c: &&char| c.is_ascii_alphanumeric() || **c == '_';
    match rest.first()? {
        c @ ('{' | '(') => Some(format!("${c}")),
        c if c.is_ascii_alphabetic() || *c == '_' => {
            Some(format!("${}", rest.iter().take_while(is_word).collect::<String>()))
        }
        _ => None,
    }
}

/// One character, and how it stands.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: usize,
    c: char,
    escaped: bool,
    /// The quote that it stands in.
    open: Option<(usize, char)>,
    /// The quote that the next character stands in.
    open_after: Option<(usize, char)>,
}

/// The characters of a text, with the quotes that they stand in.
struct Scan<'a> {
    chars: std::iter::Enumerate<std::str::Chars<'a>>,
    open: Option<(usize, char)>,
    escape: bool,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        Self { chars: text.chars().enumerate(), open: None, escape: false }
    }
}

impl Iterator for Scan<'_> {
    type Item = Seen;

    fn next(&mut self) -> Option<Seen> {
        let (at, c) = self.chars.next()?;
        let (open, escaped) = (self.open, std::mem::take(&mut self.escape));
        match (c, open) {
            _ if escaped => {}
            ('\\', None | Some((_, '"'))) => self.escape = true,
            ('\'' | '"', None) => self.open = Some((at, c)),
            (c, Some((_, quote))) if c == quote => self.open = None,
            _ => {}
        }
        Some(Seen { at, c, escaped, open, open_after: self.open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_quote_is_found() {
        for (text, quote, at, after) in [
            ("docker run a 'b c", '\'', 13, ""),
            ("docker run \"a 'b' c", '"', 11, ""),
            ("docker run 'a' \\' \"", '"', 18, ""),
            ("-e PASSWORD='hunter2 a", '\'', 12, "PASSWORD="),
            ("-e PASSWORD=hunter'2 a", '\'', 18, "PASSWORD="),
            ("é 'x", '\'', 2, ""),
        ] {
            assert_eq!(split(text), Err(OpenQuote { quote, at, after: after.to_owned() }), "{text}");
        }
    }

    #[test]
    fn what_a_shell_would_have_acted_on_is_found_outside_its_quotes() {
        for (text, found) in [
            ("docker run a sh -c 'echo $HOME | wc *'", &[][..]),
            ("docker run -e A=$HOME -v $PWD:/x -e A=$HOME a", &["$HOME", "$PWD"]),
            ("docker run -e \"A=${B}\" -e C=$(date) -e D=`date` a", &["${", "$(", "`"]),
            ("docker run -v ~/a:/b a", &["~"]),
            ("docker run a > log 2>&1 &", &[">", "&"]),
            ("docker run a ls *.txt | sort; date", &["*", "|", ";"]),
            ("docker run a echo \\$HOME \"\\$x\" 5$ $5 a~b \"*\"", &[]),
        ] {
            assert_eq!(meant_for_a_shell(text), found, "{text}");
        }
    }
}
