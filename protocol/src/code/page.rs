//! What `explain` prints, the same in both programs.

use std::fmt::Write as _;

use super::{Area, Code};

impl Code {
    /// Everything about the code, in lines of at most `width` characters. `facts` are added by who
    /// knows more, such as the HTTP status.
    pub fn page(self, facts: &[(&str, String)], width: usize) -> String {
        let mut page = format!("{self}: {}\n\n", self.title());
        page.push_str(&wrapped(self.meaning(), width));
        page.push_str("\n\n");
        page.push_str(&wrapped(&format!("Fix: {}", self.fix()), width));
        page.push_str("\n\n");
        for (name, value) in facts {
            let _ = writeln!(page, "{name}: {value}");
        }
        let _ = write!(page, "Exit code: {}", self.exit().code());
        page
    }

    /// Every code with its title, by area.
    pub fn list() -> String {
        let width = Self::ALL.iter().map(|code| code.as_str().len()).max();
        let width = width.unwrap_or_default();
        let mut list = String::new();
        for area in Area::ALL {
            let _ = writeln!(list, "{}", area.title());
            for code in Self::ALL.iter().filter(|code| code.area() == area) {
                let _ = writeln!(list, "  {code:width$}  {}", code.title());
            }
            list.push('\n');
        }
        list.truncate(list.trim_end().len());
        list
    }
}

/// Breaks a text between words, into lines of at most `width` characters. A word that is longer gets a
/// line of its own.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut lines = String::with_capacity(text.len() + 8);
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push('\n');
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_title_meaning_fix_and_facts() {
        let page = Code::Rate.page(&[("HTTP status", "429".to_owned())], 40);
        let (head, rest) = page.split_once("\n\n").unwrap();
        assert_eq!(head, "E-RATE: Too many requests");
        assert!(rest.contains("\n\nFix: "), "{page}");
        assert!(page.ends_with("\nHTTP status: 429\nExit code: 1"), "{page}");
        assert!(rest.lines().all(|line| line.len() <= 40), "{page}");
    }

    #[test]
    fn lines_break_between_words() {
        let cases = [
            ("", 5, ""),
            ("a b c", 5, "a b c"),
            ("a b c", 3, "a b\nc"),
            ("abcdef b", 3, "abcdef\nb"),
            ("a b", 0, "a\nb"),
        ];
        for (text, width, expected) in cases {
            assert_eq!(wrapped(text, width), expected, "{text} {width}");
        }
    }

    #[test]
    fn the_list_has_every_code() {
        let list = Code::list();
        for code in Code::ALL {
            assert!(list.contains(code.title()), "{code}");
        }
        assert!(list.starts_with("What the relay answers\n  E-"), "{list}");
    }
}
