//! Unicode compatibility decomposition (NFKD) of secrets: EasyPost normalises them before it signs.
//!
//! Covers the scripts below U+2000, the Latin ligatures and full-width ASCII. Combining marks are not
//! reordered: nobody types two of them on one letter of a secret.

use std::{collections::HashMap, sync::LazyLock};

/// Code point and its full decomposition, from the Unicode character database.
static DECOMPOSITIONS: LazyLock<HashMap<char, String>> = LazyLock::new(|| {
    let hex = |code: &str| u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
    let line = |line: &str| {
        let mut codes = line.split(' ');
        Some((hex(codes.next()?)?, codes.filter_map(hex).collect()))
    };
    include_str!("nfkd.txt").lines().filter_map(line).collect()
});

/// The text decomposed; bytes that are no UTF-8 stay as they are.
pub(super) fn decompose(text: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else {
        return text.to_vec();
    };
    let mut decomposed = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\0'..='\u{9f}' => decomposed.push(character),
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = char::from_u32(u32::from(character) - 0xfee0);
                decomposed.extend(ascii);
            }
            _ => match DECOMPOSITIONS.get(&character) {
                Some(parts) => decomposed.push_str(parts),
                None => decomposed.push(character),
            },
        }
    }
    decomposed.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_apart() {
        for (text, expected) in [
            ("s\u{e9}cret", "se\u{301}cret"),
            ("\u{fb01}\u{ff21}\u{1e9b}\u{a0}", "fiAs\u{307} "),
            ("plain", "plain"),
            ("\u{1f980}", "\u{1f980}"),
        ] {
            assert_eq!(decompose(text.as_bytes()), expected.as_bytes(), "{text}");
        }
        assert_eq!(decompose(b"\xff"), b"\xff");
    }
}
