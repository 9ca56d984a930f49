//! Finds many texts at once, in one pass over bytes that may come in pieces (Aho and Corasick, "Efficient string
//! matching", 1975): in time linear in what is read, whatever the texts have in common.

use std::collections::VecDeque;

use super::skip::Skip;

/// More children than these are not searched one by one.
const MANY: usize = 4;

/// The place of a reader that has read nothing yet, or nothing of use.
pub(super) const ROOT: u32 = 0;

/// The texts, as a tree of their beginnings.
pub(super) struct Automaton {
    nodes: Vec<Node>,
    /// Where each byte leads to from the root, from where most bytes of most logs get no further, and from other
    /// nodes with many children.
    rows: Vec<[u32; 256]>,
    /// What need not be read at the root.
    skip: Skip,
}

/// A beginning of a text. Whoever has read so far stands at the longest one that its last bytes make up.
struct Node {
    byte: u8,
    /// Whose text is the one that `length` tells of.
    owner: u16,
    /// How long the longest text is that ends here; 0 if none does.
    length: u32,
    /// One that goes on from here, and one that goes on from the same place as this; `ROOT` if there is none.
    child: u32,
    sibling: u32,
    /// The longest other beginning that the last bytes make up, which is tried where no child fits.
    fallback: u32,
    depth: u32,
    /// Its place in `rows`; 0, which is the root's, if it has none.
    row: u32,
}

/// A text that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// In bytes.
    pub(super) length: u32,
    /// Whose it is.
    pub(super) owner: u16,
}

impl Automaton {
    /// Looks for these texts, none of them empty, with the number of their owner; of the same text twice, the
    /// first counts.
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = (&'a [u8], u16)>) -> Self {
        let (texts, owners): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
        let mut automaton = Self { nodes: vec![Node::at(0, 0)], rows: Vec::new(), skip: Skip::new(&texts) };
        for (text, owner) in texts.into_iter().zip(owners) {
            automaton.add(text, owner);
        }
        automaton.nodes.shrink_to_fit();
        automaton.connect();
        automaton
    }

    /// Reads on from `place`, and tells each end of a text: how many bytes of this piece go before it, and which
    /// text it is; of several, the longest. Answers the place reached.
    pub(super) fn read(&self, mut place: u32, piece: &[u8], mut tell: impl FnMut(usize, Found)) -> u32 {
        let mut at = 0;
        loop {
            if place == ROOT {
                at = self.skip.over(piece, at);
            }
            let Some(byte) = piece.get(at) else { return place };
            place = self.step(place, *byte);
            at += 1;
            let Node { length, owner, .. } = *self.node(place);
            if length != 0 {
                tell(at, Found { length, owner });
            }
        }
    }

    /// How many of the last bytes read may be the beginning of a text.
    pub(super) fn depth(&self, place: u32) -> u32 {
        self.node(place).depth
    }

    fn step(&self, mut place: u32, byte: u8) -> u32 {
        while place != ROOT && self.node(place).row == 0 {
            if let Some(child) = self.children(place).find(|child| self.node(*child).byte == byte) {
                return child;
            }
            place = self.node(place).fallback;
        }
        self.rows[self.node(place).row as usize][usize::from(byte)]
    }

    fn children(&self, place: u32) -> impl Iterator<Item = u32> {
        let some = |place| (place != ROOT).then_some(place);
        std::iter::successors(some(self.node(place).child), move |child| some(self.node(*child).sibling))
    }

    fn add(&mut self, text: &[u8], owner: u16) {
        let mut place = ROOT;
        for byte in text {
            let known = self.children(place).find(|child| self.node(*child).byte == *byte);
            place = known.unwrap_or_else(|| self.grow(place, *byte));
        }
        let node = &mut self.nodes[place as usize];
        if node.length == 0 {
            (node.length, node.owner) = (node.depth, owner);
        }
    }

    fn grow(&mut self, place: u32, byte: u8) -> u32 {
        let new =
            u32::try_from(self.nodes.len()).expect("attributes of half a megabyte name no secrets of 4 GB");
        let parent = &mut self.nodes[place as usize];
        let sibling = std::mem::replace(&mut parent.child, new);
        let depth = parent.depth + 1;
        self.nodes.push(Node { sibling, ..Node::at(depth, byte) });
        new
    }

    /// Finds every node's fallback and makes the rows, level by level: a fallback is above its node.
    fn connect(&mut self) {
        self.rows.push([ROOT; 256]);
        let mut next = VecDeque::from([ROOT]);
        while let Some(place) = next.pop_front() {
            let children: Vec<_> = self.children(place).collect();
            if place == ROOT || children.len() > MANY {
                self.add_row(place, &children);
            }
            for child in children {
                if place != ROOT {
                    self.set_fallback(child, self.step(self.node(place).fallback, self.node(child).byte));
                }
                next.push_back(child);
            }
        }
    }

    fn add_row(&mut self, place: u32, children: &[u32]) {
        let fallback = self.node(place).fallback;
        let mut row = std::array::from_fn(|byte| self.step(fallback, byte as u8));
        for child in children {
            row[usize::from(self.node(*child).byte)] = *child;
        }
        if place == ROOT {
            self.rows[0] = row;
        } else {
            self.nodes[place as usize].row = self.rows.len() as u32;
            self.rows.push(row);
        }
    }

    fn set_fallback(&mut self, place: u32, fallback: u32) {
        let Node { length, owner, .. } = *self.node(fallback);
        let node = &mut self.nodes[place as usize];
        node.fallback = fallback;
        if node.length == 0 {
            (node.length, node.owner) = (length, owner);
        }
    }

    fn node(&self, place: u32) -> &Node {
        &self.nodes[place as usize]
    }
}

impl Node {
    fn at(depth: u32, byte: u8) -> Self {
        Self { byte, owner: 0, length: 0, child: ROOT, sibling: ROOT, fallback: ROOT, depth, row: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    #[test]
    fn the_longest_text_that_ends_at_each_byte_is_found() {
        assert_eq!(ends(&["he", "she", "his", "hers"], "ushers"), [(4, 3, 1), (6, 4, 3)]);
        assert_eq!(ends(&["a", "aa"], "aaab"), [(1, 1, 0), (2, 2, 1), (3, 2, 1)]);
        assert_eq!(ends(&["abcd", "bc"], "abcabcd"), [(3, 2, 1), (6, 2, 1), (7, 4, 0)]);
        assert_eq!(ends(&["same", "same"], "same"), [(4, 4, 0)]);
        assert_eq!(
            ends(&["ab", "ac", "ad", "ae", "af", "bxy"], "afaabxy"),
            [(2, 2, 4), (5, 2, 0), (7, 3, 5)]
        );
        assert_eq!(ends(&["none"], "non"), []);
        assert_eq!(ends(&[], "none"), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

        /// Texts of which any or all may be long enough to pass over much, read in pieces of any size.
        #[test]
        fn what_is_passed_over_changes_nothing(
            texts in prop::collection::vec("[ab]{1,4}|[abc]{2,9}|[ab]{15,30}|[ab]{4}.{2,30}", 1..6),
            shortest in 1..20_usize,
            parts in prop::collection::vec((any::<Index>(), 0..40_usize, "[abcd]{0,9}|d{20,40}"), 0..9),
            cuts in prop::collection::vec(1..60_usize, 1..9),
        ) {
            let texts: Vec<_> = texts.into_iter().filter(|text| text.len() >= shortest).collect();
            let mut read = Vec::new();
            for (text, length, noise) in parts {
                let text = if texts.is_empty() { "" } else { text.get(&texts).as_str() };
                read.extend_from_slice(&text.as_bytes()[..length.min(text.len())]);
                read.extend_from_slice(noise.as_bytes());
            }
            let automaton = automaton(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let (mut fast, mut slow, mut rest) = (ROOT, ROOT, &read[..]);
            for size in cuts.iter().cycle().take(read.len()) {
                let (piece, more) = rest.split_at((*size).min(rest.len()));
                let mut told = Vec::new();
                fast = automaton.read(fast, piece, |end, found| told.push((end, found)));
                let mut expected = Vec::new();
                for (index, byte) in piece.iter().enumerate() {
                    slow = automaton.step(slow, *byte);
                    let Node { length, owner, .. } = *automaton.node(slow);
                    expected.extend((length != 0).then_some((index + 1, Found { length, owner })));
                }
                prop_assert_eq!(told, expected);
                prop_assert_eq!(fast, slow);
                rest = more;
            }
        }
    }

    fn ends(texts: &[&str], read: &str) -> Vec<(usize, u32, u16)> {
        let mut ends = Vec::new();
        let told = |end, Found { length, owner }| ends.push((end, length, owner));
        automaton(texts).read(ROOT, read.as_bytes(), told);
        ends
    }

    fn automaton(texts: &[&str]) -> Automaton {
        Automaton::new(texts.iter().zip(0..).map(|(text, owner)| (text.as_bytes(), owner)))
    }
}
