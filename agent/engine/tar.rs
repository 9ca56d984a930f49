//! A tar archive of one file, as the Engine and the shim pack it. Pure.
//!
//! Forty lines instead of a crate: of the format nothing else is needed, and every size in it is somebody's claim.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format"; Docker's archives have its extended headers too.

use std::ops::Range;

const BLOCK: usize = 512;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;

/// The content of the file that an archive begins with; `None` if it does not, or does not hold all of it. The
/// archive may end after the file's last byte.
pub(super) fn first_file(mut archive: &[u8]) -> Option<&[u8]> {
    loop {
        let (header, rest) = archive.split_first_chunk()?;
        let size = size(header).filter(|_| is_sound(header))?;
        match header[KIND] {
            // Names and attributes, of the entry that follows, that have no place in its own header.
            b'x' | b'g' | b'L' | b'K' => archive = rest.get(size.checked_next_multiple_of(BLOCK)?..)?,
            b'0' | 0 => return rest.get(..size),
            _ => return None,
        }
    }
}

/// An archive of one file.
pub(crate) fn of_file(content: &[u8]) -> Vec<u8> {
    let mut archive = header(b'0', &format!("{:011o}", content.len()));
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    archive
}

/// A header with a right sum.
fn header(kind: u8, size: &str) -> Vec<u8> {
    let mut header = [0; BLOCK];
    header[..4].copy_from_slice(b"file");
    let size = &size.as_bytes()[..size.len().min(SIZE.len())];
    header[SIZE.start..][..size.len()].copy_from_slice(size);
    header[KIND] = kind;
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[CHECKSUM][..7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header.to_vec()
}

fn size(header: &[u8; BLOCK]) -> Option<usize> {
    octal(&header[SIZE])?.try_into().ok()
}

/// The sum of all bytes, for which those of the sum itself are blanks.
fn is_sound(header: &[u8; BLOCK]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().copied().map(u64::from).sum::<u64>();
    let blanks = sum(&[b' '; CHECKSUM.end - CHECKSUM.start]);
    octal(&header[CHECKSUM]) == Some(sum(header) - sum(&header[CHECKSUM]) + blanks)
}

/// A number in octal digits, between blanks and zero bytes. Eight gibibytes and more are written otherwise, and
/// are no number here.
fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_found_behind_what_else_is_said_of_it() {
        for content in ["", "{}", &"x".repeat(BLOCK), &"y".repeat(3 * BLOCK + 1)] {
            for before in ["", "x", "xx", "gx", "LK"] {
                let mut archive: Vec<u8> =
                    before.bytes().flat_map(|kind| entry(kind, b"30 mtime=1.5\n")).collect();
                archive.extend(entry(b'0', content.as_bytes()));
                assert_eq!(first_file(&archive), Some(content.as_bytes()), "after {before:?}");
            }
        }
    }

    #[test]
    fn what_is_no_file_as_a_whole_is_none() {
        let file = entry(b'0', b"{\"a\": 1}");
        let change = |at: usize, byte| {
            let mut file = file.clone();
            file[at] = byte;
            file
        };
        assert!(first_file(&file).is_some() && first_file(&change(BLOCK + 20, b'!')).is_some());
        for (archive, what) in [
            (Vec::new(), "nothing"),
            (vec![0; 2 * BLOCK], "an archive of nothing"),
            (b"<html>502 Bad Gateway</html>".repeat(100), "somebody's page"),
            (file[..BLOCK + 7].to_vec(), "a file without its last byte"),
            (file[..BLOCK - 1].to_vec(), "half a header"),
            (change(0, b'z'), "a header whose sum is wrong"),
            (entry(b'5', b""), "a directory"),
            (entry(b'2', b""), "a link"),
            (entry(b'x', b"only this"), "a file that does not come"),
            (header(b'x', "77777777777"), "more said of a file than there is"),
            (header(b'0', "77777777777"), "eight gibibytes that do not come"),
            (header(b'0', "8"), "a size that is no octal number"),
            (header(b'0', "-1"), "less than nothing"),
            (header(b'0', "\u{80}\0\0\0\u{1}"), "a size in another form"),
        ] {
            assert_eq!(first_file(&archive), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(archive in prop::collection::vec(any::<u8>(), 0..3000)) {
            first_file(&archive);
        }

        #[test]
        fn no_header_makes_it_panic(kind: u8, size in ".{0,6}", rest in prop::collection::vec(any::<u8>(), 0..1200)) {
            first_file(&[header(kind, &size), rest].concat());
        }
    }

    fn entry(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut entry = header(kind, &format!("{:011o}", content.len()));
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(BLOCK), 0);
        entry
    }
}
