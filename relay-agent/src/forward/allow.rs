//! Which places may be called at all: the list of the agent's own configuration. Pure.
//!
//! It is asked about the very address that is connected to, so a name that suddenly points elsewhere
//! changes nothing. What hands out credentials to whoever asks, the metadata services of clouds and
//! all that is link-local, has to be named by its exact address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use super::{Target, route::Place};
use crate::config::{Network, proxy::split_port};

/// `limits.allow_targets`. Without a list everything is allowed that needs no exact address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowTargets(Option<Arc<[Entry]>>);

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An address or a network, whatever name leads there.
    Network(Network, Option<u16>),
    /// A name of the configuration, whatever address it has.
    Name {
        /// In lower case, without `*.`.
        name: String,
        /// Names below it, rather than the name itself.
        below: bool,
        /// The only port, if there is one.
        port: Option<u16>,
    },
    /// A unix socket, or all below a directory.
    Unix(PathBuf),
}

/// An address that is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It may belong to a metadata service.
    #[error(
        "{0} is link-local or belongs to a cloud metadata service, and limits.allow_targets does \
         not name exactly that address"
    )]
    Metadata(IpAddr),
    /// The list does not cover it.
    #[error("{0} is not covered by limits.allow_targets")]
    Unlisted(SocketAddr),
}

impl AllowTargets {
    /// Reads the entries of a list.
    ///
    /// # Errors
    ///
    /// Which entry is not possible.
    pub fn parse<T: AsRef<str>>(entries: &[T]) -> Result<Self, String> {
        let entries: Result<Vec<_>, _> =
            entries.iter().map(|entry| entry.as_ref().parse()).collect();
        Ok(Self(Some(entries?.into())))
    }

    /// Whether an address, to which a host of the configuration led, may be connected to.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(super) fn judge(&self, host: &str, address: SocketAddr) -> Result<(), Forbidden> {
        let ip = address.ip().to_canonical();
        let entries = || self.0.iter().flat_map(|entries| entries.iter());
        if entries().any(|entry| entry.is_exactly(ip, address.port())) {
            return Ok(());
        }
        if is_delicate(ip) {
            return Err(Forbidden::Metadata(ip));
        }
        let covers = |entry: &Entry| {
            entry.covers_address(ip, address.port()) || entry.covers_name(host, address.port())
        };
        match self.0.is_none() || entries().any(covers) {
            true => Ok(()),
            false => Err(Forbidden::Unlisted(SocketAddr::new(ip, address.port()))),
        }
    }

    /// Whether a target can pass at all, as far as its configuration tells.
    ///
    /// # Errors
    ///
    /// Why it never can.
    pub fn check(&self, target: &Target) -> Result<(), String> {
        let uncovered = || format!("{target} is not covered by limits.allow_targets");
        let can_pass = match target.place() {
            Place::Unix { socket } => self.allows_socket(socket),
            Place::Tcp { host, port, .. } => match host.parse::<IpAddr>() {
                Ok(ip) => {
                    let judged = self.judge(host, SocketAddr::new(ip, *port));
                    return judged.map_err(|forbidden| forbidden.to_string());
                }
                Err(_) => self.0.as_ref().is_none_or(|entries| {
                    let can_lead = |entry: &Entry| entry.is_network_at(*port);
                    let mut entries = entries.iter();
                    entries.any(|entry| entry.covers_name(host, *port) || can_lead(entry))
                }),
            },
        };
        can_pass.then_some(()).ok_or_else(uncovered)
    }

    fn allows_socket(&self, socket: &Path) -> bool {
        self.0.as_ref().is_none_or(|entries| {
            let covers =
                |entry: &Entry| matches!(entry, Entry::Unix(path) if socket.starts_with(path));
            entries.iter().any(covers)
        })
    }
}

impl Entry {
    fn is_exactly(&self, ip: IpAddr, port: u16) -> bool {
        matches!(self, Self::Network(network, only)
            if network.single() == Some(ip) && is_port(*only, port))
    }

    fn covers_address(&self, ip: IpAddr, port: u16) -> bool {
        matches!(self, Self::Network(network, only) if network.contains(ip) && is_port(*only, port))
    }

    fn covers_name(&self, host: &str, port: u16) -> bool {
        let Self::Name {
            name,
            below,
            port: only,
        } = self
        else {
            return false;
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_named = match below {
            false => host == *name,
            true => host
                .strip_suffix(name.as_str())
                .is_some_and(|above| above.len() > 1 && above.ends_with('.')),
        };
        is_named && is_port(*only, port)
    }

    fn is_network_at(&self, port: u16) -> bool {
        matches!(self, Self::Network(_, only) if is_port(*only, port))
    }
}

fn is_port(only: Option<u16>, port: u16) -> bool {
    only.is_none_or(|only| only == port)
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no target: expected an address, a network such as 10.0.0.0/8, a name, \
                 *.NAME, each with or without :PORT, or unix:/PATH"
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let is_usable = path.starts_with('/');
            return is_usable.then(|| Self::Unix(path.into())).ok_or_else(wrong);
        }
        let (place, port) = split_port(text);
        if port == Some(0) {
            return Err(wrong());
        }
        if let Ok(network) = place.parse() {
            return Ok(Self::Network(network, port));
        }
        let (name, below) = match place.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (place, false),
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match is_name(&name) {
            true => Ok(Self::Name { name, below, port }),
            false => Err(wrong()),
        }
    }
}

/// Whether a text can be a host's name, and not a mistyped address.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.bytes().all(is_letter)
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for AllowTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entries) = &self.0 else {
            return f.write_str("all but link-local and metadata addresses");
        };
        for (index, entry) in entries.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{entry}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Network(network, None) => write!(f, "{network}"),
            Self::Network(network, Some(port)) => match network.to_string() {
                text if text.contains(':') => write!(f, "[{text}]:{port}"),
                text => write!(f, "{text}:{port}"),
            },
            Self::Name { name, below, port } => {
                f.write_str(if *below { "*." } else { "" })?;
                f.write_str(name)?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

/// Whether what answers at an address may be a metadata service of a cloud, which hands out
/// credentials: all that is link-local, and what else is in use.
fn is_delicate(ip: IpAddr) -> bool {
    const V4: [Ipv4Addr; 3] = [
        // Alibaba Cloud, Oracle Cloud, Azure.
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
        Ipv4Addr::new(168, 63, 129, 16),
    ];
    const V6: [Ipv6Addr; 2] = [
        // AWS, Google Cloud.
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || V4.contains(&ip),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || V6.contains(&ip)
                || carried_v4(ip).is_some_and(|ip| is_delicate(IpAddr::V4(ip)))
        }
    }
}

/// The IPv4 address that NAT64 (of the well-known prefix) would make of an IPv6 address.
fn carried_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = ip.segments() else {
        return None;
    };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> AllowTargets {
        AllowTargets::parse(entries).unwrap()
    }

    #[test]
    fn addresses_are_judged_by_list_host_and_port() {
        let cases: [(&[&str], &str, &str, bool); 21] = [
            (&["10.0.0.0/8"], "app.corp", "10.1.2.3:80", true),
            (&["10.0.0.0/8"], "app.corp", "192.0.2.1:80", false),
            (&["10.0.0.0/8"], "app.corp", "[::ffff:10.1.2.3]:80", true),
            (&["10.0.0.0/8:8080"], "app.corp", "10.1.2.3:80", false),
            (&["10.0.0.0/8:8080"], "app.corp", "10.1.2.3:8080", true),
            (&["fd00::/8"], "app.corp", "[fd12::1]:80", true),
            (&["[fd12::1]:80"], "app.corp", "[fd12::1]:80", true),
            (&["[fd12::1]:80"], "app.corp", "[fd12::1]:81", false),
            (&["*.internal"], "app.internal", "192.0.2.1:80", true),
            (&["*.internal"], "App.Internal.", "192.0.2.1:80", true),
            (&["*.internal"], "internal", "192.0.2.1:80", false),
            (&["*.internal"], "appinternal", "192.0.2.1:80", false),
            (
                &["*.internal"],
                "internal.evil.example",
                "192.0.2.1:80",
                false,
            ),
            (&["app.corp:8080"], "app.corp", "192.0.2.1:8080", true),
            (&["app.corp:8080"], "app.corp", "192.0.2.1:80", false),
            (&["app.corp"], "x.app.corp", "192.0.2.1:80", false),
            (&["a", "10.0.0.1"], "b", "10.0.0.1:80", true),
            (&[], "a", "10.0.0.1:80", false),
            // A name or a network is not the exact address that these need.
            (&["0.0.0.0/0"], "a", "169.254.169.254:80", false),
            (&["meta.corp"], "meta.corp", "169.254.169.254:80", false),
            (
                &["169.254.169.254:80"],
                "meta.corp",
                "169.254.169.254:80",
                true,
            ),
        ];
        for (entries, host, address, expected) in cases {
            let judged = list(entries).judge(host, address.parse().unwrap());
            assert_eq!(judged.is_ok(), expected, "{entries:?} {host} {address}");
        }
    }

    #[test]
    fn without_a_list_only_what_is_delicate_is_refused() {
        let cases = [
            ("169.254.169.254", false),
            ("169.254.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("fe80::1", false),
            ("fd00:ec2::254", false),
            ("fd20:ce::254", false),
            ("100.100.100.200", false),
            ("192.0.0.192", false),
            ("168.63.129.16", false),
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("203.0.113.1", true),
        ];
        for (ip, expected) in cases {
            let address = SocketAddr::new(ip.parse().unwrap(), 80);
            let judged = AllowTargets::default().judge("a", address);
            assert_eq!(judged.is_ok(), expected, "{ip}");
        }
    }

    #[test]
    fn targets_that_never_can_pass_are_known_beforehand() {
        let cases: [(&[&str], &str, bool); 13] = [
            (&["10.0.0.0/8"], "http://10.0.0.1/hook", true),
            (&["10.0.0.0/8"], "http://192.0.2.1", false),
            (&["10.0.0.0/8"], "http://app.corp", true),
            (&["10.0.0.0/8:8080"], "http://app.corp", false),
            (&["*.internal"], "http://app.corp", false),
            (&["*.internal"], "https://app.internal", true),
            (&["*.internal:443"], "https://app.internal", true),
            (&["*.internal:443"], "http://app.internal", false),
            (&["*.internal"], "unix:/run/app.sock", false),
            (&["unix:/run/app.sock"], "unix:/run/app.sock:/hook", true),
            (&["unix:/run/apps"], "unix:/run/apps/a.sock", true),
            (&["unix:/run/app"], "unix:/run/app.sock", false),
            (&["0.0.0.0/0"], "http://169.254.169.254", false),
        ];
        for (entries, target, expected) in cases {
            let checked = list(entries).check(&target.parse().unwrap());
            assert_eq!(checked.is_ok(), expected, "{entries:?} {target}");
        }
        let free = AllowTargets::default();
        assert!(free.check(&"unix:/run/app.sock".parse().unwrap()).is_ok());
        assert!(free.check(&"http://[fe80::1]".parse().unwrap()).is_err());
    }

    #[test]
    fn entries_are_read_strictly_and_shown_as_written() {
        let entries = [
            "10.0.0.0/8",
            "10.0.0.1:80",
            "fd00::/8",
            "[fd00::1]:80",
            "app.corp",
            "*.internal:8443",
            "unix:/run/app.sock",
        ];
        assert_eq!(list(&entries).to_string(), entries.join(", "));
        for wrong in [
            "",
            "*",
            "*.",
            "a.*",
            "10.0.0",
            "10.0.0.0/33",
            "a:b",
            "a:0",
            "a:99999",
            "a b",
            "http://a",
            "unix:run/app.sock",
            "[::1",
            "a..b",
        ] {
            assert!(AllowTargets::parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_list_without_the_exact_address_opens_a_delicate_one(
            entries in prop::collection::vec("(\\*\\.)?[a-z.]{1,6}|[0-9]{1,3}\\.0\\.0\\.0/[0-7]|::/0", 0..5),
            host in "[a-z.]{1,8}",
        ) {
            if let Ok(allow) = AllowTargets::parse(&entries) {
                let address = "169.254.169.254:80".parse().unwrap();
                prop_assert!(allow.judge(&host, address).is_err());
            }
        }
    }
}
