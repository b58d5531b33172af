//! Which source a request is for, and what is left of its target. Pure.

/// The part of the path before the source's key.
const PREFIX: &str = "/in/";

/// A request target below a source's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// The source's key.
    pub(super) key: &'a str,
    /// The path below the source's URL and the query, exactly as received: empty, or starting with
    /// `/` or `?`.
    pub(super) rest: &'a str,
}

impl<'a> Target<'a> {
    /// Splits a path and query; `None` if it is not below `/in/`.
    pub(super) fn split(path_and_query: &'a str) -> Option<Self> {
        let below = path_and_query.strip_prefix(PREFIX)?;
        let end = below.find(['/', '?']).unwrap_or(below.len());
        let (key, rest) = below.split_at(end);
        Some(Self { key, rest })
    }

    /// Whether the path has a `.` or `..` segment, written plainly or percent-encoded. A service
    /// or a proxy before it would resolve those, and so reach what the agent's URL does not name.
    pub(super) fn has_dot_segment(self) -> bool {
        let path = self.rest.split('?').next().unwrap_or_default();
        path.split(['/', '\\']).any(is_dot_segment)
    }
}

/// RFC 3986 5.2.4, with each dot possibly as `%2e` and slashes possibly as `%2f` or `%5c`.
fn is_dot_segment(segment: &str) -> bool {
    if !segment.contains('.') && !segment.contains('%') {
        return false;
    }
    let plain = segment
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    plain.split('/').any(|part| part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_kept_as_it_came() {
        for (input, key, rest) in [
            ("/in/abc", "abc", ""),
            ("/in/abc/", "abc", "/"),
            (
                "/in/abc/a//b/%41;x=1?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
                "abc",
                "/a//b/%41;x=1?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
            ),
            ("/in/abc?x", "abc", "?x"),
            ("/in/abc?", "abc", "?"),
            ("/in/", "", ""),
        ] {
            assert_eq!(Target::split(input), Some(Target { key, rest }), "{input}");
        }
        for other in ["/", "/in", "/IN/abc", "/agent/v1/connect", "//in/abc"] {
            assert_eq!(Target::split(other), None, "{other}");
        }
    }

    #[test]
    fn dot_segments_are_seen_through_encodings() {
        let check = |rest: &str, expected| {
            assert_eq!(
                Target { key: "k", rest }.has_dot_segment(),
                expected,
                "{rest}"
            );
        };
        for rest in [
            "/..",
            "/.",
            "/a/../b",
            "/%2e%2E/a",
            "/.%2e",
            "/%2e",
            "/a/%2e%2e",
            "/..\\x",
            "/a%2f..%2fb",
            "/%2e%2e%5cb",
        ] {
            check(rest, true);
        }
        for rest in [
            "",
            "/",
            "/...",
            "/.well-known/x",
            "/a..b",
            "/a.b/%2ehidden",
            "?x=/../",
            "/a?b=..",
            "/%252e%252e",
        ] {
            check(rest, false);
        }
    }
}
