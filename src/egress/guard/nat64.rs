//! IPv4 addresses inside IPv6 ones, as translators (NAT64) write them. Pure.
//!
//! **Source:** RFC 6052, section 2.2 (where the IPv4 address lies, by the length of the prefix) and RFC 8215 (the
//! prefix for local use).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// The prefix that all translators share.
const SHARED: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

/// What a network's own translators take their prefixes from.
const LOCAL: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);

/// The lengths of prefixes within the local one.
const LENGTHS: [u8; 4] = [48, 56, 64, 96];

/// The IPv4 addresses that an address may stand for; none outside the translators' prefixes.
///
/// Where the IPv4 address lies in a local one, only the prefix's length says: it is taken from the network that names
/// it. A name of another length leaves it open, so that every place is judged.
pub(super) fn inside(address: Ipv6Addr, named: &[IpNet]) -> Vec<Ipv4Addr> {
    if within(address, SHARED) {
        return vec![at(address, 96)];
    }
    if !within(address, LOCAL) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for network in named {
        let IpNet::V6(network) = network else { continue };
        if !network.contains(&address) {
            continue;
        }
        if LENGTHS.contains(&network.prefix_len()) {
            found.push(at(address, network.prefix_len()));
        } else {
            found.extend(LENGTHS.map(|length| at(address, length)));
        }
    }
    found
}

fn within(address: Ipv6Addr, (network, length): (Ipv6Addr, u8)) -> bool {
    Ipv6Net::new_assert(network, length).contains(&address)
}

/// The 32 bits after the prefix, leaving out bits 64 to 71, which belong to no address.
fn at(address: Ipv6Addr, length: u8) -> Ipv4Addr {
    let [_, _, _, _, _, _, b6, b7, _, b9, b10, b11, b12, b13, b14, b15] = address.octets();
    let [a, b, c, d] = match length {
        48 => [b6, b7, b9, b10],
        56 => [b7, b9, b10, b11],
        64 => [b9, b10, b11, b12],
        _ => [b12, b13, b14, b15],
    };
    Ipv4Addr::new(a, b, c, d)
}
