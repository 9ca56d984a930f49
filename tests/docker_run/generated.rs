//! Command lines out of all flags with valid and nearly valid values, in every form that pflag reads.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use proptest::{
    collection::vec,
    prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof},
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    comparison::Bench,
    flags::{FLAGS, Flag},
};

/// Words that say the same when a shell has read them.
#[derive(Clone, Copy, Debug)]
enum Quotes {
    Fewest,
    Single,
    Double,
    Backslash,
}

/// Makes `count` lines from a seed. Answers those on which we and the CLI differ, the first of them shrunk, and
/// how many lines the CLI took.
pub(crate) fn differing(count: usize, seed: u64) -> (Vec<String>, usize) {
    /// Shrinking asks the CLI often.
    const SHRUNK: usize = 8;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = (engine(), line());
    let mut trees: Vec<_> =
        (0..count).map(|_| strategy.new_tree(&mut runner).expect("nothing is filtered")).collect();
    let lines: Vec<(&str, String)> = trees.iter().map(ValueTree::current).collect();

    let (mut found, taken) = compared(&lines);
    found.sort_unstable_by_key(|(index, _)| *index);
    let mut bench = Bench::new();
    let mut told = Vec::new();
    for (index, differences) in found {
        let shrunk = if told.len() < SHRUNK { shrink(&mut bench, &mut trees[index]) } else { None };
        let ((api, line), differences) = shrunk.unwrap_or((lines[index].clone(), differences));
        told.push(format!("{line}   (API {api})\n    {}", differences.join("\n    ")));
    }
    (told, taken)
}

/// The indices of differing lines, and how many the CLI took, from a bench a processor.
fn compared(lines: &[(&str, String)]) -> (Vec<(usize, Vec<String>)>, usize) {
    let (next, taken, found) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut bench = Bench::new();
                while let Some((index, (api, line))) = take(&next, lines) {
                    let differences = bench.compare(api, "create", line);
                    if !differences.is_empty() {
                        found.lock().unwrap_or_else(PoisonError::into_inner).push((index, differences));
                    }
                }
                taken.fetch_add(bench.taken, Ordering::Relaxed);
            });
        }
    });
    (found.into_inner().unwrap_or_else(PoisonError::into_inner), taken.into_inner())
}

fn take<'l, T>(next: &AtomicUsize, lines: &'l [T]) -> Option<(usize, &'l T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    lines.get(index).map(|line| (index, line))
}

/// The simplest line found that still differs.
fn shrink<T>(bench: &mut Bench, tree: &mut T) -> Option<((&'static str, String), Vec<String>)>
where
    T: ValueTree<Value = (&'static str, String)>,
{
    let mut simplest = None;
    for _ in 0..150 {
        let (api, line) = tree.current();
        let differences = bench.compare(api, "create", &line);
        let further = match differences.is_empty() {
            true => tree.complicate(),
            false => {
                simplest = Some(((api, line), differences));
                tree.simplify()
            }
        };
        if !further {
            break;
        }
    }
    simplest
}

fn engine() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => Just("1.50"), 1 => Just("1.43"), 1 => Just("1.41")]
}

/// Flags, perhaps `--`, an image, and its arguments, quoted somehow.
fn line() -> impl Strategy<Value = String> {
    let quotes = prop_oneof![
        6 => Just(Quotes::Fewest),
        1 => Just(Quotes::Single),
        1 => Just(Quotes::Double),
        1 => Just(Quotes::Backslash),
    ];
    let image = prop_oneof![
        9 => Just(vec!["a"]),
        1 => select(vec![vec!["gcr.io/p/i:v1"], vec!["--", "a"], vec!["A"], vec![], vec!["localhost:5000/a"], vec!["-"]]),
    ];
    let arguments = vec(select(vec!["b", "-c", "--rm", "x y", "", "--", "$A", "é'\"\\"]), 0..3);
    let blank = select(vec![" ", "  ", "\t", " \\\n  "]);
    (vec(flag_words(), 0..5), image, arguments, vec(quotes, 1..6), vec(blank, 1..3)).prop_map(
        |(flags, image, arguments, quotes, blanks)| {
            let rest = image.into_iter().chain(arguments).map(str::to_owned);
            let words = flags.into_iter().flatten().chain(rest);
            let mut line = String::new();
            for (index, word) in words.enumerate() {
                if index > 0 {
                    line += blanks[index % blanks.len()];
                }
                line += &quoted(&word, quotes[index % quotes.len()]);
            }
            line
        },
    )
}

/// A flag and its value in one of the forms that pflag reads, or a bundle.
fn flag_words() -> impl Strategy<Value = Vec<String>> {
    let (switches, valued): (Vec<&Flag>, Vec<&Flag>) = FLAGS.iter().partition(|flag| flag.values.is_empty());
    let bundled: String = switches.iter().filter_map(|flag| flag.short).collect();
    let bundled: Vec<char> = bundled.chars().collect();
    let with_short: Vec<&Flag> = valued.iter().copied().filter(|flag| flag.short.is_some()).collect();

    let switch = (select(switches), switch_value()).prop_map(|(flag, value)| match value {
        // False asks a server far away.
        Some(value) if flag.name != "disable-content-trust" => vec![format!("--{}={value}", flag.name)],
        _ => vec![format!("--{}", flag.name)],
    });
    let long =
        (select(valued).prop_flat_map(with_value), any::<bool>()).prop_map(|((flag, value), apart)| {
            match apart {
                true => vec![format!("--{}", flag.name), value],
                false => vec![format!("--{}={value}", flag.name)],
            }
        });
    let bundle = (vec(select(bundled), 0..3), select(with_short).prop_flat_map(with_value), 0..4_u8)
        .prop_map(|(switches, (flag, value), form)| {
            let mut word: String = ['-'].into_iter().chain(switches.iter().copied()).collect();
            let short = flag.short.expect("chosen so");
            match form {
                0 if !switches.is_empty() => vec![word],
                1 => vec![format!("{word}{short}{value}")],
                2 => vec![format!("{word}{short}={value}")],
                _ => {
                    word.push(short);
                    vec![word, value]
                }
            }
        });
    prop_oneof![2 => switch, 6 => long, 2 => bundle]
}

fn switch_value() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![
        6 => Just(None),
        3 => select(vec!["true", "1", "T", "false", "F", "0"]).prop_map(Some),
        1 => select(vec!["yes", "", "tRUE", "2"]).prop_map(Some),
    ]
}

fn with_value(flag: &'static Flag) -> BoxedStrategy<(&'static Flag, String)> {
    let known = select(flag.values).prop_map(str::to_owned);
    let near = (
        select(flag.values),
        any::<proptest::sample::Index>(),
        select(vec!['=', ':', ',', '.', '/', '-', '_', ' ', '0', '1', 'a', 'B', '"', '*', '[', '%', 'é']),
        0..3_u8,
    )
        .prop_map(|(value, at, c, edit)| edited(value, at, c, edit));
    // A file's name is no grammar.
    match flag.name {
        "cidfile" | "env-file" | "label-file" | "security-opt" => {
            known.prop_map(move |value| (flag, value)).boxed()
        }
        _ => prop_oneof![3 => known, 1 => near].prop_map(move |value| (flag, value)).boxed(),
    }
}

/// A value with one character removed, added or replaced.
fn edited(value: &str, at: proptest::sample::Index, c: char, edit: u8) -> String {
    let mut letters: Vec<char> = value.chars().collect();
    let at = at.index(letters.len() + 1);
    match edit {
        0 if at < letters.len() => drop(letters.remove(at)),
        1 if at < letters.len() => letters[at] = c,
        _ => letters.insert(at, c),
    }
    letters.into_iter().collect()
}

fn quoted(word: &str, quotes: Quotes) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "/.:,=@%+-_".contains(c);
    match quotes {
        Quotes::Fewest if !word.is_empty() && word.chars().all(harmless) => word.to_owned(),
        Quotes::Fewest | Quotes::Single => format!("'{}'", word.replace('\'', "'\\''")),
        Quotes::Double => {
            let escaped = |c: char| if "\\\"$`".contains(c) { format!("\\{c}") } else { c.to_string() };
            format!("\"{}\"", word.chars().map(escaped).collect::<String>())
        }
        Quotes::Backslash if word.is_empty() => "''".to_owned(),
        Quotes::Backslash => {
            let escaped = |c: char| if harmless(c) { c.to_string() } else { format!("\\{c}") };
            word.chars().map(escaped).collect()
        }
    }
}
