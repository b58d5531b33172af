//! The query of a request as forms write it.

use std::borrow::Cow;

/// Names and values of a query, decoded. What is no valid escape stands for itself.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(name), decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let escaped = bytes.get(at..at + 2).filter(|_| byte == b'%');
        decoded.push(match escaped.and_then(unhex) {
            Some(escaped) => {
                at += 2;
                escaped
            }
            None if byte == b'+' => b' ',
            None => byte,
        });
    }
    match String::from_utf8_lossy(&decoded) {
        Cow::Borrowed(text) => Cow::Owned(text.to_owned()),
        Cow::Owned(text) => Cow::Owned(text),
    }
}

fn unhex(pair: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let (high, low) = (digit(pair.first()?)?, digit(pair.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_forms_write_them() {
        let read = |query| {
            let pairs = pairs(query).map(|(name, value)| format!("{name}={value}"));
            pairs.collect::<Vec<_>>().join(" | ")
        };
        for (query, expected) in [
            ("", ""),
            ("a=1&b=2&a=3", "a=1 | b=2 | a=3"),
            ("a&&b=", "a= | b="),
            ("a+b=c%20d%2Be", "a b=c d+e"),
            ("a=b=c", "a=b=c"),
            ("a=%zz%4&b=%", "a=%zz%4 | b=%"),
            ("%c3%a4=%ff", "ä=\u{fffd}"),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
    }
}
