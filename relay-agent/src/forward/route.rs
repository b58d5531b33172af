//! Destination to URL: the configured URL without a final slash, the raw rest of the path, the raw
//! query. Nothing is normalised, and nothing that the relay sends can change host or scheme.

use std::{fmt, str::FromStr};

use http::{Uri, uri};

use crate::config::value::{bare_host, plain_authority};

/// A service, as the configuration names it.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    scheme: uri::Scheme,
    authority: uri::Authority,
    host: String,
    port: u16,
    /// The configured path without a final slash.
    path: String,
}

/// A request target that is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It starts with neither `/` nor `?`.
    #[error("the request target does not start with / or ?")]
    NotBelow,
    /// It would leave the configured path.
    #[error("the path holds dot segments")]
    DotSegments,
    /// It holds bytes that an HTTP request line cannot carry unchanged.
    #[error("the request target holds characters that cannot be sent unchanged")]
    NotVerbatim,
}

impl Target {
    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.scheme == uri::Scheme::HTTPS
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL to call for the raw rest of a request target.
    ///
    /// # Errors
    ///
    /// [`RouteError`]: the call is refused, never altered.
    pub fn join(&self, rest: &str) -> Result<Uri, RouteError> {
        if !(rest.is_empty() || rest.starts_with(['/', '?'])) {
            return Err(RouteError::NotBelow);
        }
        if has_dot_segments(rest) {
            return Err(RouteError::DotSegments);
        }
        let mut path_and_query = String::with_capacity(self.path.len() + rest.len() + 1);
        path_and_query.push_str(&self.path);
        if self.path.is_empty() && !rest.starts_with('/') {
            // A request line has no empty path.
            path_and_query.push('/');
        }
        path_and_query.push_str(rest);
        let expected_bytes = path_and_query.len();

        // `http::Uri` cuts a fragment off; what it does not keep whole is not sent at all.
        let path_and_query =
            uri::PathAndQuery::from_maybe_shared(bytes::Bytes::from(path_and_query))
                .map_err(|_| RouteError::NotVerbatim)?;
        if path_and_query.as_str().len() != expected_bytes {
            return Err(RouteError::NotVerbatim);
        }
        let mut parts = uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path_and_query);
        Uri::from_parts(parts).map_err(|_| RouteError::NotVerbatim)
    }
}

/// Whether a segment of the path is `.` or `..`, also when written with `%2e`.
fn has_dot_segments(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    path.split('/').any(|segment| {
        // The longest such segment is `%2e%2e`; most segments need no second look.
        segment.len() <= 6
            && matches!(
                segment.to_ascii_lowercase().as_str(),
                "." | ".." | "%2e" | "%2e%2e" | ".%2e" | "%2e."
            )
    })
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => uri::Scheme::HTTP,
            Some("https") => uri::Scheme::HTTPS,
            _ => return Err(format!("{text:?} must start with http:// or https://")),
        };
        let authority = plain_authority(&uri)
            .and_then(|authority| authority.parse().ok())
            .ok_or_else(|| format!("{text:?} must name a host, and no user or password"))?;
        if text.contains(['?', '#']) {
            return Err(format!(
                "{text:?} must not have a query or fragment: the provider's query goes there"
            ));
        }
        let default_port = if scheme == uri::Scheme::HTTPS {
            443
        } else {
            80
        };
        Ok(Self {
            host: bare_host(&uri),
            port: uri.port_u16().unwrap_or(default_port),
            path: uri
                .path()
                .strip_suffix('/')
                .unwrap_or(uri.path())
                .to_owned(),
            scheme,
            authority,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(target: &str, rest: &str) -> Result<String, RouteError> {
        let target: Target = target.parse().unwrap();
        target.join(rest).map(|uri| uri.to_string())
    }

    #[test]
    fn rest_is_put_behind_the_configured_url() {
        let cases = [
            ("http://a", "", "http://a/"),
            ("http://a/", "", "http://a/"),
            ("http://a", "/x", "http://a/x"),
            ("http://a/", "/x", "http://a/x"),
            ("http://a:81/hook", "", "http://a:81/hook"),
            ("http://a/hook/", "", "http://a/hook"),
            ("http://a/hook", "/", "http://a/hook/"),
            (
                "http://a/hook",
                "?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
                "http://a/hook?b=2&a=1&a=3&q=x%26y%3Dz&s=a%20b",
            ),
            (
                "http://a/hook",
                "/p//q/?x=../..",
                "http://a/hook/p//q/?x=../..",
            ),
            ("http://a", "?q", "http://a/?q"),
            ("http://a", "//evil.example/x", "http://a//evil.example/x"),
            ("http://a", "/@evil.example", "http://a/@evil.example"),
            (
                "http://a",
                "/http://evil.example",
                "http://a/http://evil.example",
            ),
            ("https://[::1]:8443/h", "/%zz", "https://[::1]:8443/h/%zz"),
        ];
        for (target, rest, expected) in cases {
            assert_eq!(
                join(target, rest).as_deref(),
                Ok(expected),
                "{target} + {rest}"
            );
        }
    }

    #[test]
    fn what_could_leave_the_configured_url_is_refused() {
        for rest in [
            "/..",
            "/../x",
            "/a/./b",
            "/%2e%2E/x",
            "/.%2e",
            "/%2E",
            "/a/..?x",
        ] {
            assert_eq!(
                join("http://a/hook", rest),
                Err(RouteError::DotSegments),
                "{rest}"
            );
        }
        for rest in [
            "x",
            "@evil.example",
            ".evil.example",
            ":81/x",
            "http://evil.example/",
        ] {
            assert_eq!(join("http://a", rest), Err(RouteError::NotBelow), "{rest}");
        }
        for rest in ["/a#b", "/a b", "/a\r\nx: y", "/\u{0}"] {
            assert_eq!(
                join("http://a", rest),
                Err(RouteError::NotVerbatim),
                "{rest:?}"
            );
        }
    }

    #[test]
    fn targets_are_plain_http_urls() {
        for wrong in [
            "",
            "a",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a?x=1",
            "http://a/#x",
            "/x",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
        let target: Target = "https://[::1]/hook/".parse().unwrap();
        assert_eq!(
            (target.host(), target.port(), target.is_tls()),
            ("::1", 443, true)
        );
        assert_eq!(target.to_string(), "https://[::1]/hook");
    }

    proptest! {
        #[test]
        fn relay_never_widens_where_calls_go(rest in "[ -~]{0,40}") {
            let target: Target = "http://svc.internal:8080/hook".parse().unwrap();
            if let Ok(uri) = target.join(&rest) {
                prop_assert_eq!(uri.authority().unwrap().as_str(), "svc.internal:8080");
                prop_assert_eq!(uri.path_and_query().unwrap().as_str(), format!("/hook{rest}"));
            }
        }
    }
}
