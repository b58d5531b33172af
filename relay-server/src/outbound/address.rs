//! Which addresses the relay may connect to: those of the public Internet. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is reachable from everywhere, so that a name which points at it cannot turn
/// the relay against its own network.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || first == 0
        || first >= 224 // multicast, reserved, broadcast
        || (first == 100 && (64..128).contains(&second)) // carrier-grade NAT
        || (first == 198 && (18..20).contains(&second)) // benchmarks
        || (first, second, third) == (192, 0, 0)
        || (first, second, third) == (192, 88, 99); // 6to4 relays
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    // Global unicast is 2000::/3. Within it, tunnels carry an IPv4 address that may be any, and
    // documentation is nowhere.
    let global = (0x2000..0x4000).contains(&first);
    // Teredo and other protocols, and documentation.
    let special = (first == 0x2001 && (second < 0x200 || second == 0xdb8))
        || first == 0x2002 // 6to4
        || (first == 0x3fff && second < 0x1000);
    // NAT64 of the well-known prefix is how IPv4 is reached where there is only IPv6.
    let nat64 = (first, second, third) == (0x64, 0xff9b, 0);
    let [.., high, low] = address.segments();
    let embedded = Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    (global && !special) || (nat64 && is_public_v4(embedded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        let cases = [
            ("93.184.215.14", true),
            ("8.8.8.8", true),
            ("172.15.0.1", true),
            ("172.16.0.1", false),
            ("10.1.2.3", false),
            ("192.168.0.1", false),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("198.18.0.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001:0:1::1", false),
            ("2002:7f00:1::", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::10.0.0.1", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_public(text.parse().unwrap()), expected, "{text}");
        }
    }
}
