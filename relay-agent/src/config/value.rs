//! The values that have rules of their own.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use http::Uri;

/// Longest token, in bytes. A file that is longer is not a token file.
pub(super) const TOKEN_BYTES_MAX: usize = 4096;

/// What opens a session. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Takes the text of a token file: one token, white space around it ignored.
    ///
    /// # Errors
    ///
    /// What is wrong, without the token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let token = text.trim();
        if token.is_empty() {
            return Err("the token is empty".to_owned());
        }
        if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "this is not a token: expected one word that starts with hf_agent_".to_owned(),
            );
        }
        Ok(Self(token.into()))
    }

    /// Stands where no token was found; it is never sent.
    pub(super) fn placeholder() -> Self {
        Self("".into())
    }

    /// How it begins, if that is how tokens begin: the kind is no secret.
    pub fn kind(&self) -> Option<&'static str> {
        let kinds = ["hf_agent_", "hf_api_", "hf_ingest_"];
        kinds.into_iter().find(|kind| self.0.starts_with(kind))
    }

    /// The token itself, for the header that carries it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Where the relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Host and port as in the URL, for the Host header.
    pub authority: String,
    /// Path before `/agent/v1/connect`, without a final slash.
    pub path: String,
}

impl ServerUrl {
    /// The URL agents connect to.
    pub fn connect_url(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{}", self.authority, self.connect_path())
    }

    /// The path agents connect to.
    pub fn connect_path(&self) -> String {
        format!("{}/agent/v1/connect", self.path)
    }

    /// The path that agents post to where no WebSocket gets through.
    pub fn poll_path(&self) -> String {
        format!("{}/agent/v1/poll", self.path)
    }

    /// The path that test events are sent to.
    pub fn send_path(&self) -> String {
        format!("{}/agent/v1/send", self.path)
    }

    /// The path at which a token is asked about, with destinations it may serve.
    pub fn token_path(&self, destinations: &[String]) -> String {
        let path = format!("{}/agent/v1/token", self.path);
        match destinations {
            [] => path,
            names => format!("{path}?destinations={}", percent_encoded(&names.join(","))),
        }
    }

    /// Whether the relay is on this machine, so that plain HTTP leaks nothing.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = without_user(text);
        let uri: Uri = text
            .parse()
            .map_err(|_| format!("{shown:?} is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(format!("{shown:?} must start with https:// or wss://")),
        };
        let authority = plain_authority(&uri).ok_or_else(|| {
            format!("{shown:?} must be scheme, host and port: no user name or password")
        })?;
        if uri.query().is_some() {
            return Err(format!("{shown:?} must not have a query"));
        }
        Ok(Self {
            tls,
            host: bare_host(&uri),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// Host and port of a URL that names no user.
pub(crate) fn plain_authority(uri: &Uri) -> Option<String> {
    let authority = uri.authority()?;
    let usable = !authority.as_str().contains('@') && !authority.host().is_empty();
    usable.then(|| authority.as_str().to_owned())
}

/// The host of a URL, without the brackets of an IPv6 address.
pub(crate) fn bare_host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// Reads a time span such as `500ms`, `30s`, `2m`, `1h`; not zero, at most a day.
///
/// # Errors
///
/// What was expected instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 500ms, 30s, 2m or 1h (at most 24h)");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(total @ 1..=86_400_000) => Ok(Duration::from_millis(total)),
        _ => Err(wrong()),
    }
}

/// A text as the value of a query.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b',' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// A URL for an error text: what stands before `@` may be a password.
fn without_user(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("...@{rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_never_repeats_a_password() {
        for text in [
            "https://user:hunter2@relay.example.com",
            "user:hunter2@",
            "http://u:hunter2@[::1",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn server_urls() {
        let server: ServerUrl = "https://relay.example.com/hooks/".parse().unwrap();
        assert_eq!(
            server.connect_url(),
            "wss://relay.example.com/hooks/agent/v1/connect"
        );
        assert_eq!(
            (server.port, server.tls, server.is_loopback()),
            (443, true, false)
        );

        assert_eq!(
            server.token_path(&["ci".to_owned(), "a&b".to_owned()]),
            "/hooks/agent/v1/token?destinations=ci,a%26b"
        );

        let local: ServerUrl = "ws://[::1]:8080".parse().unwrap();
        assert_eq!(local.connect_url(), "ws://[::1]:8080/agent/v1/connect");
        assert_eq!((local.host.as_str(), local.is_loopback()), ("::1", true));

        for wrong in [
            "",
            "relay",
            "ftp://relay",
            "https://a:b@relay",
            "https://relay/?a=b",
            "https://",
        ] {
            assert!(wrong.parse::<ServerUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("24h", 86_400_000),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected)));
        }
        for wrong in [
            "",
            "s",
            "30",
            "0s",
            "25h",
            "1.5s",
            "-1s",
            "1 s",
            "99999999999999999999h",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_one_word_and_never_shown() {
        let token = Token::parse(" hf_agent_x\n").unwrap();
        assert_eq!(token.reveal(), "hf_agent_x");
        assert!(!format!("{token:?}").contains("hf_agent_x"));
        for wrong in ["", " \n", "two words", "a\nb", "caf\u{e9}"] {
            let message = Token::parse(wrong).err().unwrap();
            assert!(wrong.trim().is_empty() || !message.contains(wrong));
        }
    }
}
