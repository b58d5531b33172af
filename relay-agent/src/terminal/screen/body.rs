//! A body for people: JSON set out, text as it is, anything else in hexadecimal.

use ratatui::text::Line;

/// Bytes that are shown.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// Lines that are shown.
const SHOWN_LINES_MAX: usize = 2000;

/// Levels of JSON that are indented.
const INDENT_MAX: usize = 40;

/// Bytes in a row of hexadecimal.
const ROW_BYTES: usize = 16;

/// A body in lines.
pub(super) fn lines(body: &[u8]) -> Vec<Line<'static>> {
    let cut = &body[..body.len().min(SHOWN_BYTES_MAX)];
    let text = match std::str::from_utf8(cut) {
        Ok(text) => Some(text),
        // The cut may go through a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&cut[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let mut lines: Vec<String> = match text {
        Some(text) => set_out(body)
            .unwrap_or_else(|| text.to_owned())
            .lines()
            .map(harmless)
            .collect(),
        None => cut.chunks(ROW_BYTES).enumerate().map(hexadecimal).collect(),
    };
    let is_cut = cut.len() < body.len() || lines.len() > SHOWN_LINES_MAX;
    lines.truncate(SHOWN_LINES_MAX);
    if is_cut {
        lines.push(format!("… {} bytes in all", body.len()));
    }
    lines.into_iter().map(Line::raw).collect()
}

/// JSON with a line for each value, every token as it came, unless it is no JSON or much of it.
fn set_out(body: &[u8]) -> Option<String> {
    let is_open = body
        .first()
        .is_some_and(|first| b"{[ \n\r\t".contains(first));
    if body.len() > SHOWN_BYTES_MAX || !is_open {
        return None;
    }
    // Only checked: reading it into values would lose order, repeats and the spelling of numbers.
    serde_json::from_slice::<serde::de::IgnoredAny>(body).ok()?;
    let text = std::str::from_utf8(body).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut tokens = text.chars().peekable();
    while let Some(token) = tokens.next() {
        if in_string {
            out.push(token);
            in_string = is_escaped || token != '"';
            is_escaped = !is_escaped && token == '\\';
            continue;
        }
        match token {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                out.push(token);
                while tokens.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                if let Some(end) = tokens.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(token);
            }
            ',' => {
                out.push(token);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = token == '"';
                out.push(token);
            }
        }
    }
    Some(out)
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth.min(INDENT_MAX)));
}

fn hexadecimal((row, bytes): (usize, &[u8])) -> String {
    let numbers: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let signs = bytes.iter().map(|&byte| match byte {
        b' '..=b'~' => char::from(byte),
        _ => '.',
    });
    let width = ROW_BYTES * 3;
    format!(
        "{:08x}  {:<width$} {}",
        row * ROW_BYTES,
        numbers.join(" "),
        signs.collect::<String>()
    )
}

/// A line of text without what could steer a terminal.
pub(super) fn harmless(line: &str) -> String {
    line.chars()
        .map(|character| match character {
            '\t' => ' ',
            character if character.is_control() => '\u{fffd}',
            // They turn the direction of writing: what is seen would not be what is there.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            character => character,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &[u8], expected: &[&str]) {
        let shown: Vec<_> = lines(body).iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn bodies() {
        check(b"", &[]);
        check(br#"{"a":[1]}"#, &["{", "  \"a\": [", "    1", "  ]", "}"]);
        check(
            br#" {"b":{ },"a":[1e400, "x,\"\\" ],"a":[]} "#,
            &[
                "{",
                "  \"b\": {},",
                "  \"a\": [",
                "    1e400,",
                r#"    "x,\"\\""#,
                "  ],",
                "  \"a\": []",
                "}",
            ],
        );
        check(b"{broken", &["{broken"]);
        check(b"a=1&b=2\nc\x1b[2J", &["a=1&b=2", "c\u{fffd}[2J"]);
        check(
            b"\xff\x00abcdefghijklmno",
            &[
                "00000000  ff 00 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e  ..abcdefghijklmn",
                "00000010  6f                                               o",
            ],
        );
        let long = "é".repeat(SHOWN_BYTES_MAX);
        let shown = lines(long.as_bytes());
        assert_eq!(shown.len(), 2);
        assert!(shown[1].to_string().contains("131072 bytes in all"));
    }
}
