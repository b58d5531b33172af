//! Destination to URL: the configured URL without a final slash, the raw rest of the path, the raw
//! query. Nothing is normalised, and nothing that the relay sends can change host, socket or scheme.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use http::{Uri, uri};

use crate::config::value::{bare_host, plain_authority};

/// Longest path of a unix socket, in bytes: what its address has room for, less the final zero.
const SOCKET_BYTES_MAX: usize = 107;

/// A service, as the configuration names it: `http://HOST[:PORT][/PATH]`, `https://...` or
/// `unix:/SOCKET[:/PATH]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    place: Place,
    /// The configured path without a final slash.
    path: String,
}

/// What a connection to a service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port of a host.
    Tcp {
        /// Whether TLS is spoken.
        tls: bool,
        /// As in the URL.
        authority: uri::Authority,
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A socket of this machine; plain HTTP is spoken.
    Unix {
        /// Its path.
        socket: PathBuf,
    },
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
    /// Where connections lead.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        matches!(self.place, Place::Tcp { tls: true, .. })
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
        let (scheme, authority) = match &self.place {
            Place::Tcp { tls, authority, .. } => (scheme(*tls), authority.clone()),
            // What goes to a socket has no host; services see this name unless another is configured.
            Place::Unix { .. } => (uri::Scheme::HTTP, uri::Authority::from_static("localhost")),
        };
        let mut parts = uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
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

fn scheme(tls: bool) -> uri::Scheme {
    if tls {
        uri::Scheme::HTTPS
    } else {
        uri::Scheme::HTTP
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['?', '#']) {
            return Err(format!(
                "{text:?} must not have a query or fragment: the provider's query goes there"
            ));
        }
        match text.strip_prefix("unix:") {
            Some(rest) => parse_unix(text, rest),
            None => parse_url(text),
        }
    }
}

fn parse_url(text: &str) -> Result<Target, String> {
    let uri: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL"))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => {
            return Err(format!(
                "{text:?} must start with http://, https:// or unix:/"
            ));
        }
    };
    let authority: uri::Authority = plain_authority(&uri)
        .and_then(|authority| authority.parse().ok())
        .ok_or_else(|| format!("{text:?} must name a host, and no user or password"))?;
    let place = Place::Tcp {
        tls,
        host: bare_host(&uri),
        port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        authority,
    };
    Ok(Target {
        place,
        path: without_final_slash(uri.path()),
    })
}

/// As nginx has it: the socket ends where `:/` begins a path.
fn parse_unix(text: &str, rest: &str) -> Result<Target, String> {
    if cfg!(not(unix)) {
        return Err(format!("{text:?}: there are no unix sockets here"));
    }
    // `unix:///run/app.sock`, as others write it.
    let written = rest.strip_prefix("//").filter(|path| path.starts_with('/'));
    let rest = written.unwrap_or(rest);
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, String::new()),
    };
    let is_plain = Path::new(socket).is_absolute()
        && !socket.starts_with("//")
        && !socket.contains('\0')
        && !Path::new(socket)
            .components()
            .any(|part| part == Component::ParentDir);
    if !is_plain || socket.len() > SOCKET_BYTES_MAX {
        return Err(format!(
            "{text:?} must be unix:/SOCKET or unix:/SOCKET:/PATH, with an absolute path without .. \
             of at most {SOCKET_BYTES_MAX} bytes"
        ));
    }
    let target = Target {
        place: Place::Unix {
            socket: socket.into(),
        },
        path: without_final_slash(&path),
    };
    // The path goes into request lines as it is.
    match target.join("") {
        Ok(_) => Ok(target),
        Err(wrong) => Err(format!("{text:?}: {wrong}")),
    }
}

fn without_final_slash(path: &str) -> String {
    path.strip_suffix('/').unwrap_or(path).to_owned()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { tls, authority, .. } => {
                write!(f, "{}://{authority}{}", scheme(*tls), self.path)
            }
            Place::Unix { socket } => {
                write!(f, "unix:{}", socket.display())?;
                match self.path.as_str() {
                    "" => Ok(()),
                    path => write!(f, ":{path}"),
                }
            }
        }
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
        let Place::Tcp {
            tls, host, port, ..
        } = target.place()
        else {
            panic!("a socket");
        };
        assert_eq!((*tls, host.as_str(), *port), (true, "::1", 443));
        assert_eq!(target.to_string(), "https://[::1]/hook");
    }

    #[test]
    fn unix_sockets_have_a_path_of_the_file_system_and_one_of_the_url() {
        let cases = [
            ("unix:/run/app.sock", "/run/app.sock", "http://localhost/x"),
            (
                "unix:/run/app.sock:/",
                "/run/app.sock",
                "http://localhost/x",
            ),
            (
                "unix:/run/app.sock:/hook/",
                "/run/app.sock",
                "http://localhost/hook/x",
            ),
            ("unix:/run/a:b", "/run/a:b", "http://localhost/x"),
            (
                "unix:///run/app.sock",
                "/run/app.sock",
                "http://localhost/x",
            ),
        ];
        for (text, socket, expected) in cases {
            let target: Target = text.parse().unwrap();
            let place = Place::Unix {
                socket: socket.into(),
            };
            assert_eq!((target.place(), target.is_tls()), (&place, false), "{text}");
            assert_eq!(target.join("/x").unwrap(), expected, "{text}");
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_BYTES_MAX));
        for wrong in [
            "unix:",
            "unix:run/app.sock",
            "unix://run",
            "unix:/run/../app.sock",
            "unix:/run/app.sock?x=1",
            "unix:/run/app.sock:/a b",
            "unix:/run/app\0.sock",
            &long,
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
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
