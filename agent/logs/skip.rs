//! Passes over bytes at which none of many texts begins, as at most bytes of most logs (after Wu and Manber, "A fast
//! algorithm for multi-pattern searching", 1994).
//!
//! A pair of bytes that is in no text's beginning is in no text that begins at one of the bytes before it, as far back
//! as a beginning is long. Most pairs are of that kind, so that by a look at every 15th pair most of a log is passed.

/// Of a text's beginning, in bytes. With 8, logs took half as long again or more.
const MOST: usize = 16;

/// What is known of the texts' beginnings.
pub(super) struct Skip {
    /// In bytes: as many as the shortest text has, two at least.
    length: usize,
    /// The pairs of bytes that are anywhere in a beginning.
    within: Pairs,
    /// Those that a text begins with.
    first: Pairs,
}

impl Skip {
    /// For these texts.
    pub(super) fn new(texts: &[&[u8]]) -> Self {
        let shortest = texts.iter().map(|text| text.len()).min().unwrap_or(MOST);
        let length = shortest.clamp(2, MOST);
        // A text of one byte has no pair, and may be in any.
        let begin = if shortest < 2 { Pairs::all } else { Pairs::none };
        let (mut within, mut first) = (begin(), begin());
        for text in texts {
            for (index, pair) in text.windows(2).take(length - 1).enumerate() {
                let pair = [pair[0], pair[1]];
                within.add(pair);
                if index == 0 {
                    first.add(pair);
                }
            }
        }
        Self { length, within, first }
    }

    /// How far one who has read up to `at`, and nothing of use, gets on by that. A text that begins before there does
    /// not go on there.
    pub(super) fn over(&self, piece: &[u8], mut at: usize) -> usize {
        loop {
            // Whatever began before the second byte of this pair would have both in its beginning.
            if pair(piece, at + self.length - 2).is_some_and(|pair| !self.within.has(pair)) {
                at += self.length - 1;
            } else if pair(piece, at).is_some_and(|pair| !self.first.has(pair)) {
                at += 1;
            } else {
                return at;
            }
        }
    }
}

fn pair(piece: &[u8], at: usize) -> Option<[u8; 2]> {
    Some([*piece.get(at)?, *piece.get(at + 1)?])
}

/// A set of pairs of bytes: a bit for each that there is.
struct Pairs(Box<[u64; 1 << 10]>);

impl Pairs {
    fn none() -> Self {
        Self(Box::new([0; 1 << 10]))
    }

    fn all() -> Self {
        Self(Box::new([u64::MAX; 1 << 10]))
    }

    fn add(&mut self, pair: [u8; 2]) {
        let (word, bit) = Self::place(pair);
        self.0[word] |= bit;
    }

    fn has(&self, pair: [u8; 2]) -> bool {
        let (word, bit) = Self::place(pair);
        self.0[word] & bit != 0
    }

    fn place(pair: [u8; 2]) -> (usize, u64) {
        let number = u16::from_le_bytes(pair);
        (usize::from(number >> 6), 1 << (number & 63))
    }
}
