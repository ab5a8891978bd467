//! The address guard: decides which addresses the courier may connect to. Pure.
//!
//! Everything that is not an ordinary public address is refused, unless it is private or loopback and a
//! configured network names it. Link-local, metadata, multicast and reserved ranges stay refused even then. Behind
//! NAT64 the IPv4 address inside is judged as well as the prefix.
//!
//! **Source:** the IANA special-purpose address registries for IPv4 and IPv6 (seen 2026-11).

mod nat64;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use url::{Host, Url};

/// Ports below this one belong to services that do not speak HTTP (RFC 6335: system ports).
const SYSTEM_PORTS_END: u16 = 1024;

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// How a message broker is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// In plain text: amqp.
    Plain,
    /// Over TLS: amqps.
    #[default]
    Tls,
}

/// Whether a port is one that HTTP is expected on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortClass {
    /// 80, 443 or 1024 and above.
    Ordinary,
    /// Another system port: only addresses that `allow_networks` names may be reached on it.
    System,
}

impl PortClass {
    /// Classifies a port.
    #[must_use]
    pub fn of(port: u16) -> Self {
        if port >= SYSTEM_PORTS_END || port == 80 || port == 443 {
            Self::Ordinary
        } else {
            Self::System
        }
    }
}

/// What of a request decides, beside the address, whether it may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// The scheme.
    pub scheme: Scheme,
    /// The port's class.
    pub port: PortClass,
}

/// Which rule refused an address. Messages name no path and no query.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The address lies in a range that is refused unless it is named.
    #[error("{address} is {range}; name its network in allow_networks if it is meant")]
    Unnamed {
        /// The address.
        address: IpAddr,
        /// The range, in words.
        range: &'static str,
    },
    /// The address lies in a range that is refused always.
    #[error("{address} is {range}, which is never reached")]
    Never {
        /// The address.
        address: IpAddr,
        /// The range, in words.
        range: &'static str,
    },
    /// The address may be reached, but not in plain text.
    #[error("plain http to {address} is not allowed; use https, or name its network in plain_http_networks")]
    PlainHttp {
        /// The address.
        address: IpAddr,
    },
    /// The broker may be reached, but not in plain text.
    #[error("plain amqp to {address} is not allowed; use amqps, or name its network in plain_http_networks")]
    PlainAmqp {
        /// The address.
        address: IpAddr,
    },
    /// The port is a system port other than 80 and 443.
    #[error("a port below 1024 other than 80 and 443 is reached only where allow_networks names {address}")]
    SystemPort {
        /// The address.
        address: IpAddr,
    },
    /// Port 0 cannot be reached.
    #[error("port 0 cannot be reached")]
    PortZero,
    /// The scheme is neither http nor https.
    #[error("the scheme must be https or http")]
    Scheme,
    /// The address has no host.
    #[error("the address has no host")]
    NoHost,
    /// The address carries a user name or password.
    #[error("a user name or password in the address is not accepted")]
    UserInfo,
}

/// Whether naming a range in `allow_networks` opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opens {
    WhenNamed,
    Never,
}

/// A refused range: network, prefix length, what it is, and whether it can be opened.
type Range<A> = (A, u8, &'static str, Opens);

/// Refused IPv4 ranges; the first match decides.
const REFUSED_V4: &[Range<Ipv4Addr>] = &[
    (Ipv4Addr::UNSPECIFIED, 8, "\"this network\"", Opens::Never),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private", Opens::WhenNamed),
    // A cloud's metadata service inside the shared range.
    (
        Ipv4Addr::new(100, 100, 100, 200),
        32,
        "a metadata service",
        Opens::Never,
    ),
    (
        Ipv4Addr::new(100, 64, 0, 0),
        10,
        "shared address space",
        Opens::WhenNamed,
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback", Opens::WhenNamed),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local", Opens::Never),
    // A cloud's platform service on a public address.
    (
        Ipv4Addr::new(168, 63, 129, 16),
        32,
        "a metadata service",
        Opens::Never,
    ),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private", Opens::WhenNamed),
    (
        Ipv4Addr::new(192, 0, 0, 0),
        24,
        "reserved for protocols",
        Opens::Never,
    ),
    (
        Ipv4Addr::new(192, 0, 2, 0),
        24,
        "reserved for documentation",
        Opens::Never,
    ),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "a 6to4 relay", Opens::Never),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private", Opens::WhenNamed),
    (
        Ipv4Addr::new(198, 18, 0, 0),
        15,
        "reserved for benchmarks",
        Opens::WhenNamed,
    ),
    (
        Ipv4Addr::new(198, 51, 100, 0),
        24,
        "reserved for documentation",
        Opens::Never,
    ),
    (
        Ipv4Addr::new(203, 0, 113, 0),
        24,
        "reserved for documentation",
        Opens::Never,
    ),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast", Opens::Never),
    (
        Ipv4Addr::new(240, 0, 0, 0),
        4,
        "reserved or broadcast",
        Opens::Never,
    ),
];

const fn v6(head: [u16; 3]) -> Ipv6Addr {
    let [a, b, c] = head;
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

/// Refused IPv6 ranges; the first match decides. IPv4-mapped addresses are judged as IPv4 before.
const REFUSED_V6: &[Range<Ipv6Addr>] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified", Opens::Never),
    (Ipv6Addr::LOCALHOST, 128, "loopback", Opens::WhenNamed),
    (Ipv6Addr::UNSPECIFIED, 96, "IPv4-compatible", Opens::Never),
    (
        v6([0x64, 0xff9b, 0]),
        96,
        "an IPv4 address behind NAT64",
        Opens::WhenNamed,
    ),
    (
        v6([0x64, 0xff9b, 1]),
        48,
        "an IPv4 address behind NAT64",
        Opens::WhenNamed,
    ),
    (v6([0x100, 0, 0]), 64, "discard-only", Opens::Never),
    (
        v6([0x2001, 0, 0]),
        23,
        "reserved for protocols (Teredo, ORCHID)",
        Opens::Never,
    ),
    (
        v6([0x2001, 0xdb8, 0]),
        32,
        "reserved for documentation",
        Opens::Never,
    ),
    (
        v6([0x2002, 0, 0]),
        16,
        "an IPv4 address behind 6to4",
        Opens::Never,
    ),
    (v6([0x3fff, 0, 0]), 20, "reserved for documentation", Opens::Never),
    (v6([0x5f00, 0, 0]), 16, "a segment identifier", Opens::Never),
    // A cloud's metadata service inside the unique-local range.
    (
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        128,
        "a metadata service",
        Opens::Never,
    ),
    (v6([0xfc00, 0, 0]), 7, "unique-local", Opens::WhenNamed),
    (v6([0xfe80, 0, 0]), 10, "link-local", Opens::Never),
    (v6([0xfec0, 0, 0]), 10, "site-local", Opens::Never),
    (v6([0xff00, 0, 0]), 8, "multicast", Opens::Never),
];

/// IPv6 addresses outside this network are not assigned to anybody.
const GLOBAL_UNICAST: (Ipv6Addr, u8) = (v6([0x2000, 0, 0]), 3);

/// Which addresses may be reached besides public ones, and which in plain text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressPolicy {
    /// Private and loopback networks that may be reached. Loopback addresses named here may be plain http.
    pub allow_networks: Vec<IpNet>,
    /// Networks that may be reached in plain text; naming one here does not open it.
    pub plain_http_networks: Vec<IpNet>,
}

impl AddressPolicy {
    /// Judges an address by itself, whatever the scheme and port.
    ///
    /// # Errors
    /// [`Refusal::Unnamed`] or [`Refusal::Never`] with the range that the address lies in.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Refusal> {
        let address = unmapped(address);
        let inside = match address {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(address) => nat64::inside(address, &self.allow_networks),
        };
        // What is never reached comes first: no network should be named for it in vain.
        for address in &inside {
            never_behind_nat64(*address)?;
        }
        self.check_range(address)?;
        for address in inside {
            self.check_range(IpAddr::V4(address))?;
        }
        Ok(())
    }

    fn check_range(&self, address: IpAddr) -> Result<(), Refusal> {
        let Some((range, opens)) = refused_range(address) else {
            return Ok(());
        };
        match opens {
            Opens::WhenNamed if names(&self.allow_networks, address) => Ok(()),
            Opens::WhenNamed => Err(Refusal::Unnamed { address, range }),
            Opens::Never => Err(Refusal::Never { address, range }),
        }
    }

    /// Judges an address for requests of the given scheme and port class.
    ///
    /// # Errors
    /// Any of [`Refusal`]'s address rules.
    pub fn check_reach(&self, address: IpAddr, reach: Reach) -> Result<(), Refusal> {
        self.check_address(address)?;
        let address = unmapped(address);
        let named = names(&self.allow_networks, address);
        match reach.port {
            PortClass::System if !named => return Err(Refusal::SystemPort { address }),
            PortClass::System | PortClass::Ordinary => {}
        }
        let plain = names(&self.plain_http_networks, address) || (address.is_loopback() && named);
        match reach.scheme {
            Scheme::Http if !plain => Err(Refusal::PlainHttp { address }),
            Scheme::Http | Scheme::Https => Ok(()),
        }
    }

    /// Judges a message broker's address by the rules for http: amqp is plain text, amqps is TLS.
    ///
    /// # Errors
    /// Any of [`Refusal`]'s address rules; [`Refusal::PlainAmqp`] in the place of [`Refusal::PlainHttp`].
    pub fn check_broker(&self, address: IpAddr, port: u16, transport: Transport) -> Result<(), Refusal> {
        if port == 0 {
            return Err(Refusal::PortZero);
        }
        let scheme = match transport {
            Transport::Plain => Scheme::Http,
            Transport::Tls => Scheme::Https,
        };
        let port = PortClass::of(port);
        self.check_reach(address, Reach { scheme, port })
            .map_err(|refused| {
                if let Refusal::PlainHttp { address } = refused {
                    Refusal::PlainAmqp { address }
                } else {
                    refused
                }
            })
    }

    /// Judges what an address text alone shows: scheme, user info, port and, where the host is a literal, the
    /// address. A name's addresses are judged with the returned [`Reach`] once they are resolved.
    ///
    /// # Errors
    /// The [`Refusal`] that applies first.
    pub fn check_url(&self, url: &Url) -> Result<Reach, Refusal> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(Refusal::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let port = match url.port_or_known_default() {
            Some(0) => return Err(Refusal::PortZero),
            Some(port) => PortClass::of(port),
            None => return Err(Refusal::Scheme),
        };
        let reach = Reach { scheme, port };
        match url.host() {
            None | Some(Host::Domain("")) => return Err(Refusal::NoHost),
            Some(Host::Domain(_)) => {}
            Some(Host::Ipv4(address)) => self.check_reach(IpAddr::V4(address), reach)?,
            Some(Host::Ipv6(address)) => self.check_reach(IpAddr::V6(address), reach)?,
        }
        Ok(reach)
    }
}

/// Refuses what no network opens behind NAT64: a translator's own loopback is nobody's source either.
fn never_behind_nat64(address: Ipv4Addr) -> Result<(), Refusal> {
    let range = match refused_range(IpAddr::V4(address)) {
        Some(_) if address.is_loopback() => "loopback behind NAT64",
        Some((range, Opens::Never)) => range,
        Some((_, Opens::WhenNamed)) | None => return Ok(()),
    };
    let address = IpAddr::V4(address);
    Err(Refusal::Never { address, range })
}

/// An IPv4-mapped IPv6 address is the IPv4 address to the operating system, and so to the policy.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn names(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

fn refused_range(address: IpAddr) -> Option<(&'static str, Opens)> {
    match address {
        IpAddr::V4(address) => REFUSED_V4
            .iter()
            .find(|(network, prefix, ..)| Ipv4Net::new_assert(*network, *prefix).contains(&address))
            .map(|(_, _, range, opens)| (*range, *opens)),
        IpAddr::V6(address) => REFUSED_V6
            .iter()
            .find(|(network, prefix, ..)| Ipv6Net::new_assert(*network, *prefix).contains(&address))
            .map(|(_, _, range, opens)| (*range, *opens))
            .or_else(|| {
                let (network, prefix) = GLOBAL_UNICAST;
                let assigned = Ipv6Net::new_assert(network, prefix).contains(&address);
                (!assigned).then_some(("not assigned to anybody", Opens::Never))
            }),
    }
}

#[cfg(test)]
mod tests;
