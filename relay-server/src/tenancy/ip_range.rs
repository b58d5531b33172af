//! Ranges of addresses: `192.0.2.0/24`, `2001:db8::/32`, or a single address.

use std::{fmt, net::IpAddr, str::FromStr};

/// A range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    prefix_bits: u8,
}

/// A text that is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a range such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct InvalidIpRange(String);

impl IpRange {
    /// Whether an address lies in the range. IPv4 in IPv6 (`::ffff:a.b.c.d`) counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.first, ip.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(ip)) => {
                let host_bits = 32 - u32::from(self.prefix_bits);
                let network = |bits: u32| bits.checked_shr(host_bits).unwrap_or(0);
                network(first.to_bits()) == network(ip.to_bits())
            }
            (IpAddr::V6(first), IpAddr::V6(ip)) => {
                let host_bits = 128 - u32::from(self.prefix_bits);
                let network = |bits: u128| bits.checked_shr(host_bits).unwrap_or(0);
                network(first.to_bits()) == network(ip.to_bits())
            }
            _ => false,
        }
    }
}

impl FromStr for IpRange {
    type Err = InvalidIpRange;

    fn from_str(text: &str) -> Result<Self, InvalidIpRange> {
        let invalid = || InvalidIpRange(text.chars().take(64).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| invalid())?;
        let bits_max = if first.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| invalid())?
            }
            Some(_) => return Err(invalid()),
        };
        if prefix_bits > bits_max {
            return Err(invalid());
        }
        Ok(Self { first, prefix_bits })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, ip: &str, expected: bool) {
        let range: IpRange = range.parse().unwrap();
        assert_eq!(
            range.contains(ip.parse().unwrap()),
            expected,
            "{ip} in {range}"
        );
    }

    #[test]
    fn ranges_contain_their_network_only() {
        check("192.0.2.0/24", "192.0.2.255", true);
        check("192.0.2.77/24", "192.0.2.1", true);
        check("192.0.2.0/24", "192.0.3.0", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("0.0.0.0/0", "2001:db8::1", false);
        check("192.0.2.0/24", "::ffff:192.0.2.9", true);
        check("2001:db8::/32", "2001:db8:ffff::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db8::1", true);
        check("::1", "::2", false);
    }

    #[test]
    fn nonsense_is_no_range() {
        for text in [
            "",
            "/",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/-1",
            "192.0.2.0/+8",
            "x/8",
            "192.0.2.0/",
        ] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}
