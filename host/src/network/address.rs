// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

//! Addresses that nobody's allowed name may lead to: this host, its networks, its cloud's metadata.
//!
//! Pure. Invariant: an IPv6 address that carries an IPv4 address inside is what the inner one is.
//! The documentation ranges (RFC 5737, RFC 3849, RFC 9637) are not in the table: nobody's network lies
//! there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range of addresses that is refused unless the operator lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Range {
    /// Which addresses.
    pub net: IpNet,
    /// What they are.
    pub name: &'static str,
    /// Who says so.
    pub source: &'static str,
}

const fn v4(address: [u8; 4], prefix: u8, name: &'static str, source: &'static str) -> Range {
    let [a, b, c, d] = address;
    Range {
        net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)),
        name,
        source,
    }
}

const fn v6(address: u128, prefix: u8, name: &'static str, source: &'static str) -> Range {
    Range {
        net: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(address), prefix)),
        name,
        source,
    }
}

/// All refused ranges. A smaller one stands before the one it lies in, so that it names the address.
pub const RANGES: &[Range] = &[
    v4(
        [169, 254, 169, 254],
        32,
        "cloud metadata",
        "AWS, Azure, Google Cloud, OpenStack, DigitalOcean",
    ),
    v4([169, 254, 170, 2], 32, "cloud metadata", "AWS ECS"),
    v4([168, 63, 129, 16], 32, "cloud metadata", "Azure WireServer"),
    v4([100, 100, 100, 200], 32, "cloud metadata", "Alibaba Cloud"),
    v4([192, 0, 0, 192], 32, "cloud metadata", "Oracle Cloud"),
    v4(
        [0, 0, 0, 0],
        8,
        "unspecified, or this network",
        "RFC 1122, 3.2.1.3",
    ),
    v4([10, 0, 0, 0], 8, "private", "RFC 1918"),
    v4(
        [100, 64, 0, 0],
        10,
        "shared (carrier-grade NAT)",
        "RFC 6598",
    ),
    v4([127, 0, 0, 0], 8, "loopback", "RFC 1122, 3.2.1.3"),
    v4([169, 254, 0, 0], 16, "link-local", "RFC 3927"),
    v4([172, 16, 0, 0], 12, "private", "RFC 1918"),
    v4([192, 0, 0, 0], 24, "protocol assignments", "RFC 6890, 2.1"),
    v4([192, 88, 99, 0], 24, "6to4 relays", "RFC 7526"),
    v4([192, 168, 0, 0], 16, "private", "RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarking", "RFC 2544"),
    v4([224, 0, 0, 0], 4, "multicast", "RFC 5771"),
    v4([255, 255, 255, 255], 32, "broadcast", "RFC 919"),
    v4([240, 0, 0, 0], 4, "reserved", "RFC 1112, 4"),
    v6(
        0xfd00_0ec2_0000_0000_0000_0000_0000_0254,
        128,
        "cloud metadata",
        "AWS",
    ),
    v6(
        0xfd20_00ce_0000_0000_0000_0000_0000_0254,
        128,
        "cloud metadata",
        "Google Cloud",
    ),
    v6(0, 128, "unspecified", "RFC 4291, 2.5.2"),
    v6(1, 128, "loopback", "RFC 4291, 2.5.3"),
    v6(0, 96, "IPv4-compatible", "RFC 4291, 2.5.5.1"),
    v6(0x0064_ff9b_0001 << 80, 48, "local NAT64", "RFC 8215"),
    v6(0x0100 << 112, 64, "discard only", "RFC 6666"),
    v6(0x2001_0002 << 96, 48, "benchmarking", "RFC 5180"),
    v6(0x2001_0010 << 96, 28, "ORCHID", "RFC 4843"),
    v6(0x2001_0020 << 96, 28, "ORCHIDv2", "RFC 7343"),
    v6(0x5f00 << 112, 16, "segment routing", "RFC 9602"),
    v6(0xfc00 << 112, 7, "unique local", "RFC 4193"),
    v6(0xfe80 << 112, 10, "link-local", "RFC 4291, 2.5.6"),
    v6(0xfec0 << 112, 10, "site-local", "RFC 3879"),
    v6(0xff00 << 112, 8, "multicast", "RFC 4291, 2.7"),
];

/// The refused range that `address` lies in, itself or by an IPv4 address that it carries.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static Range> {
    let within = |address: IpAddr| RANGES.iter().find(|range| range.net.contains(&address));
    match address {
        IpAddr::V4(_) => within(address),
        IpAddr::V6(outer) => embedded(outer)
            .into_iter()
            .flatten()
            .find_map(|inner| within(inner.into()))
            .or_else(|| within(address)),
    }
}

/// The IPv4 addresses that a packet to `address` may end at.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let pair =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match (a, b, c, d, e, f) {
        // IPv4-mapped (RFC 4291, 2.5.5.2), IPv4-translated (RFC 2765), NAT64 (RFC 6052).
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => {
            [pair(g, h), None]
        }
        // IPv4-compatible; `::` and `::1` are what they are.
        (0, 0, 0, 0, 0, 0) if g != 0 || h > 1 => [pair(g, h), None],
        // 6to4 (RFC 3056).
        (0x2002, ..) => [pair(b, c), None],
        // Teredo (RFC 4380): the server, and the client with its bits turned round.
        (0x2001, 0, ..) => [pair(c, d), pair(!g, !h)],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(address: &str) -> Option<&'static str> {
        special(address.parse().expect(address)).map(|range| range.name)
    }

    fn step(address: IpAddr, by: i8) -> Option<IpAddr> {
        let by = i128::from(by);
        match address {
            IpAddr::V4(a) => {
                let bits = u32::try_from(i128::from(a.to_bits()) + by).ok()?;
                Some(Ipv4Addr::from_bits(bits).into())
            }
            IpAddr::V6(a) => {
                let bits = if by < 0 {
                    a.to_bits().checked_sub(1)
                } else {
                    a.to_bits().checked_add(1)
                };
                Some(Ipv6Addr::from_bits(bits?).into())
            }
        }
    }

    /// Each range begins and ends where its source says; what lies beside it belongs to it no more.
    #[test]
    fn every_range_from_its_first_to_its_last_address() {
        for range in RANGES {
            for address in [range.net.network(), range.net.addr(), last(&range.net)] {
                assert!(special(address).is_some(), "{address}");
            }
            for beside in [step(range.net.network(), -1), step(last(&range.net), 1)] {
                let Some(beside) = beside else { continue };
                assert!(!range.net.contains(&beside));
                let other = special(beside);
                assert!(other.is_none_or(|other| other != range), "{beside}");
            }
        }
    }

    fn last(net: &IpNet) -> IpAddr {
        match net {
            IpNet::V4(net) => net.broadcast().into(),
            IpNet::V6(net) => net.broadcast().into(),
        }
    }

    /// The same as the table, spelled as people do: a slip in the table's numbers shows here.
    #[test]
    fn first_and_last_of_each_range_and_their_neighbours() {
        for (before, first, end, after, expected) in [
            (
                "",
                "0.0.0.0",
                "0.255.255.255",
                "1.0.0.0",
                "unspecified, or this network",
            ),
            (
                "9.255.255.255",
                "10.0.0.0",
                "10.255.255.255",
                "11.0.0.0",
                "private",
            ),
            (
                "100.63.255.255",
                "100.64.0.0",
                "100.127.255.255",
                "100.128.0.0",
                "shared (carrier-grade NAT)",
            ),
            (
                "126.255.255.255",
                "127.0.0.0",
                "127.255.255.255",
                "128.0.0.0",
                "loopback",
            ),
            (
                "169.253.255.255",
                "169.254.0.0",
                "169.254.255.255",
                "169.255.0.0",
                "link-local",
            ),
            (
                "172.15.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "172.32.0.0",
                "private",
            ),
            (
                "191.255.255.255",
                "192.0.0.0",
                "192.0.0.255",
                "192.0.1.0",
                "protocol assignments",
            ),
            (
                "192.88.98.255",
                "192.88.99.0",
                "192.88.99.255",
                "192.88.100.0",
                "6to4 relays",
            ),
            (
                "192.167.255.255",
                "192.168.0.0",
                "192.168.255.255",
                "192.169.0.0",
                "private",
            ),
            (
                "198.17.255.255",
                "198.18.0.0",
                "198.19.255.255",
                "198.20.0.0",
                "benchmarking",
            ),
            (
                "223.255.255.255",
                "224.0.0.0",
                "239.255.255.255",
                "",
                "multicast",
            ),
            ("", "240.0.0.0", "255.255.255.254", "", "reserved"),
            ("", "255.255.255.255", "255.255.255.255", "", "broadcast"),
            ("", "::", "::", "", "unspecified"),
            ("", "::1", "::1", "", "loopback"),
            (
                "64:ff9b:0:ffff:ffff:ffff:ffff:ffff",
                "64:ff9b:1::",
                "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
                "64:ff9b:2::",
                "local NAT64",
            ),
            (
                "ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "100::",
                "100::ffff:ffff:ffff:ffff",
                "100:0:0:1::",
                "discard only",
            ),
            (
                "2001:1:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:2::",
                "2001:2:0:ffff:ffff:ffff:ffff:ffff",
                "2001:2:1::",
                "benchmarking",
            ),
            (
                "2001:f:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:10::",
                "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff",
                "",
                "ORCHID",
            ),
            (
                "",
                "2001:20::",
                "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:30::",
                "ORCHIDv2",
            ),
            (
                "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "5f00::",
                "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "5f01::",
                "segment routing",
            ),
            (
                "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fc00::",
                "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fe00::",
                "unique local",
            ),
            (
                "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fe80::",
                "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "",
                "link-local",
            ),
            (
                "",
                "fec0::",
                "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "",
                "site-local",
            ),
            (
                "",
                "ff00::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "",
                "multicast",
            ),
        ] {
            assert_eq!(
                (name(first), name(end)),
                (Some(expected), Some(expected)),
                "{first}"
            );
            for beside in [before, after].into_iter().filter(|text| !text.is_empty()) {
                assert_eq!(name(beside), None, "{beside}");
            }
        }
        for metadata in [
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert_eq!(name(metadata), Some("cloud metadata"), "{metadata}");
        }
        assert_eq!((name("168.63.129.15"), name("168.63.129.17")), (None, None));
    }

    #[test]
    fn an_ipv4_address_inside_counts() {
        for (outer, expected) in [
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:0:10.0.0.1", "private"),
            ("::127.0.0.1", "loopback"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("64:ff9b::169.254.169.254", "cloud metadata"),
            ("2002:7f00:1::", "loopback"),
            ("2002:c0a8:101::1", "private"),
            // Teredo: by its server, and by its client.
            ("2001:0:a00:1::f7f7:f7f7", "private"),
            ("2001:0:808:808::80ff:fffe", "loopback"),
        ] {
            assert_eq!(name(outer), Some(expected), "{outer}");
        }
        for open in [
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
            "2600::1",
            "1.1.1.1",
            // Documentation.
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "2001:db8::1",
            "3fff::1",
        ] {
            assert_eq!(name(open), None, "{open}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_what_it_carries(bits: u32) {
            let inner = Ipv4Addr::from_bits(bits);
            let plain = special(inner.into());
            prop_assert_eq!(special(inner.to_ipv6_mapped().into()), plain);
            let nat64 = 0x0064_ff9b_u128 << 96 | u128::from(bits);
            prop_assert_eq!(special(Ipv6Addr::from_bits(nat64).into()), plain);
        }
    }
}
