//! Proxies between this machine and the relay, and the hosts that are reached without one.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use http::uri::Authority;

use super::Network;

/// Longest user name or password: SOCKS5 counts them in one byte.
const CREDENTIAL_BYTES_MAX: usize = 255;

/// A proxy on the way to the relay. Neither `Debug` nor `Display` shows its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What it is shown, if anything.
    pub credentials: Option<Credentials>,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// HTTP CONNECT over TLS.
    Https,
    /// SOCKS5; this machine resolves the name of the relay.
    Socks5,
    /// SOCKS5; the proxy resolves the name of the relay.
    Socks5h,
}

/// What a proxy is shown. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password; empty if only a user was given.
    password: Arc<str>,
}

impl Credentials {
    /// A user and the password that belongs to it.
    ///
    /// # Errors
    ///
    /// What is wrong, without either.
    pub fn new(user: String, password: &str) -> Result<Self, String> {
        if user.is_empty() || user.len().max(password.len()) > CREDENTIAL_BYTES_MAX {
            return Err(format!(
                "user name and password of a proxy must have 1 to {CREDENTIAL_BYTES_MAX} bytes"
            ));
        }
        Ok(Self {
            user,
            password: password.into(),
        })
    }

    /// The password itself, for the proxy.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

impl Proxy {
    /// Host and port as in a URL.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Whether TLS is spoken with the proxy itself.
    pub fn is_tls(&self) -> bool {
        self.kind == ProxyKind::Https
    }

    /// Whether a password was given.
    pub fn has_password(&self) -> bool {
        let credentials = self.credentials.as_ref();
        credentials.is_some_and(|credentials| !credentials.password.is_empty())
    }
}

impl ProxyKind {
    /// As in a URL.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks5 | Self::Socks5h => 1080,
        }
    }
}

/// The URL without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.authority())
    }
}

/// Reads `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`; user and password are percent-decoded. As
/// everywhere, a URL without a scheme means http. What is wrong is told without the text.
impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .trim()
            .split_once("://")
            .unwrap_or(("http", text.trim()));
        let kind = [
            ProxyKind::Http,
            ProxyKind::Https,
            ProxyKind::Socks5,
            ProxyKind::Socks5h,
        ];
        let kind = kind
            .into_iter()
            .find(|kind| kind.scheme().eq_ignore_ascii_case(scheme))
            .ok_or("expected a URL with http, https, socks5 or socks5h")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, place) = match rest.rsplit_once('@') {
            Some((user_info, place)) => (Some(user_info), place),
            None => (None, rest),
        };
        let wrong = "expected HOST:PORT after scheme, user name and password; \
                     special characters of a password must be percent-encoded";
        let place: Authority = place.parse().map_err(|_| wrong)?;
        let host = place.host().trim_start_matches('[').trim_end_matches(']');
        // A port that is none, such as 99999 or an empty one, is not the default port.
        let has_port = place.as_str().len() > place.host().len();
        let port = match place.port_u16() {
            Some(port) if port > 0 => port,
            None if !has_port => kind.default_port(),
            _ => return Err(wrong.to_owned()),
        };
        if host.is_empty() {
            return Err(wrong.to_owned());
        }
        let credentials = user_info.map(parse_user_info).transpose()?;
        Ok(Self {
            kind,
            host: host.to_owned(),
            port,
            credentials,
        })
    }
}

fn parse_user_info(user_info: &str) -> Result<Credentials, String> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    Credentials::new(percent_decoded(user)?, &percent_decoded(password)?)
}

/// A percent sign that introduces no byte stands for itself.
fn percent_decoded(text: &str) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let encoded = match after {
            [high, low, ..] if first == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &rest[3..];
            }
            None => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded).map_err(|_| "user name or password is not UTF-8".to_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Host and port as in a URL.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        return format!("[{host}]:{port}");
    }
    format!("{host}:{port}")
}

/// Whether a host is in a list as `NO_PROXY` has it: names with everything below them, addresses,
/// networks (`10.0.0.0/8`), each with or without a port, or `*`. What is none of these matches
/// nothing: the variable belongs to many programs.
pub(crate) fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let entries = list.split(|character: char| character == ',' || character.is_whitespace());
    entries
        .filter(|entry| !entry.is_empty())
        .any(|entry| excludes(entry, host.trim_end_matches('.'), port))
}

fn excludes(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, only_port) = split_port(entry);
    if only_port.is_some_and(|only| only != port) {
        return false;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        let network = entry.parse::<Network>();
        return network.is_ok_and(|network| network.contains(address));
    }
    let name = entry.strip_prefix("*.").unwrap_or(entry);
    let name = name.trim_matches('.').to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let above = host.strip_suffix(&name);
    !name.is_empty() && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

/// Takes `:PORT` off; an IPv6 address with a port has brackets.
pub(crate) fn split_port(entry: &str) -> (&str, Option<u16>) {
    if let Some(rest) = entry.strip_prefix('[')
        && let Some((address, after)) = rest.split_once(']')
    {
        let port = after.strip_prefix(':').and_then(|port| port.parse().ok());
        return (address, port);
    }
    match entry.split_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        None => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let cases = [
            (
                "http://proxy.corp:3128",
                ProxyKind::Http,
                "proxy.corp",
                3128,
            ),
            ("proxy.corp:3128", ProxyKind::Http, "proxy.corp", 3128),
            ("proxy.corp", ProxyKind::Http, "proxy.corp", 80),
            ("HTTPS://proxy.corp/", ProxyKind::Https, "proxy.corp", 443),
            ("socks5://10.0.0.1", ProxyKind::Socks5, "10.0.0.1", 1080),
            ("socks5h://[::1]:9", ProxyKind::Socks5h, "::1", 9),
        ];
        for (text, kind, host, port) in cases {
            let proxy: Proxy = text.parse().unwrap();
            let found = (proxy.kind, proxy.host.as_str(), proxy.port);
            assert_eq!(found, (kind, host, port), "{text}");
            assert_eq!(proxy.credentials, None);
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let cases = [
            ("http://u:p@h", "u", "p"),
            ("http://u@h", "u", ""),
            ("http://corp%5Cjo:s%40crEt%3a%2F@h", "corp\\jo", "s@crEt:/"),
            ("http://u:a:b@h", "u", "a:b"),
            ("http://u:a@b@h", "u", "a@b"),
            ("http://u:100%@h", "u", "100%"),
            ("http://u:%zz%C3%A9@h", "u", "%zz\u{e9}"),
        ];
        for (text, user, password) in cases {
            let proxy: Proxy = text.parse().unwrap();
            let credentials = proxy.credentials.clone().unwrap();
            assert_eq!(
                (credentials.user.as_str(), credentials.password()),
                (user, password)
            );
            assert_eq!(proxy.to_string(), "http://h:80");
            let shown = format!("{proxy:?}");
            assert!(shown.contains("***") && !shown.contains(&format!("{password:?}")));
        }
    }

    #[test]
    fn mistakes_are_told_without_the_text() {
        for wrong in [
            "",
            "ftp://u:sEcret@h",
            "http://u:sEcret@",
            "http://u:sEcret@h:port",
            "http://u:sEcret@h:99999",
            "http://u:sEcret@h:",
            "http://u:sEcret@h/path",
            "http://u:sEcret/x@y z",
            "http://:sEcret@h",
            "http://u:sEcret%ff@h",
            &format!("http://u:sEcret{}@h", "x".repeat(256)),
        ] {
            let message = wrong.parse::<Proxy>().unwrap_err();
            assert!(!message.contains("sEcret"), "{wrong}: {message}");
        }
    }

    #[test]
    fn no_proxy_lists() {
        let cases = [
            ("", "relay.example.com", false),
            ("*", "relay.example.com", true),
            ("example.com", "relay.example.com", true),
            ("example.com", "example.com", true),
            (".example.com", "relay.example.com", true),
            (".example.com", "example.com", true),
            ("*.example.com", "relay.example.com", true),
            ("EXAMPLE.com.", "relay.Example.com.", true),
            ("ample.com", "relay.example.com", false),
            ("lay.example.com", "relay.example.com", false),
            ("a.relay.example.com", "relay.example.com", false),
            ("a, b ,\texample.com", "relay.example.com", true),
            ("a b example.com", "relay.example.com", true),
            (".", "relay.example.com", false),
            (",,", "relay.example.com", false),
            ("example.com:443", "relay.example.com", true),
            ("example.com:8443", "relay.example.com", false),
            ("example.com:port", "relay.example.com", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:443", "10.1.2.3", true),
            ("10.1.2.3:80", "10.1.2.3", false),
            ("10.1.2.3/32", "10.1.2.4", false),
            ("0.0.0.0/0", "10.1.2.3", true),
            ("10.1.2.3/33", "10.1.2.3", false),
            ("10.0.0.0/x", "10.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "ten.example.com", false),
            ("2.3", "10.1.2.3", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
            ("::/0", "10.1.2.3", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:443", "::1", true),
            ("[::1]:80", "::1", false),
            ("[::1", "::1", false),
        ];
        for (list, host, expected) in cases {
            assert_eq!(is_excluded(list, host, 443), expected, "{list} {host}");
        }
    }
}
