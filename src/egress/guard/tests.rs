//! Tables: who may be reached under which policy.

use super::*;

/// What the guard says, in one word.
fn word(result: &Result<Reach, Refusal>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Refusal::Unnamed { .. }) => "unnamed",
        Err(Refusal::Never { .. }) => "never",
        Err(Refusal::PlainHttp { .. } | Refusal::PlainAmqp { .. }) => "plain",
        Err(Refusal::SystemPort { .. } | Refusal::PortZero) => "port",
        Err(Refusal::Scheme) => "scheme",
        Err(Refusal::NoHost) => "host",
        Err(Refusal::UserInfo) => "userinfo",
    }
}

fn policy(allow: &[&str], plain: &[&str]) -> AddressPolicy {
    let parse = |networks: &[&str]| networks.iter().map(|n| n.parse().unwrap()).collect();
    AddressPolicy {
        allow_networks: parse(allow),
        plain_http_networks: parse(plain),
    }
}

fn check(policy: &AddressPolicy, rows: &[(&str, &str)]) {
    for (address, expected) in rows {
        // What the url parser refuses never becomes a request.
        let said = Url::parse(address).map_or("unparsable", |url| word(&policy.check_url(&url)));
        assert_eq!(said, *expected, "{address}");
    }
}

fn check_addresses(policy: &AddressPolicy, rows: &[(&str, &str)]) {
    let reach = Reach {
        scheme: Scheme::Https,
        port: PortClass::Ordinary,
    };
    for (address, expected) in rows {
        let judged = policy.check_address(address.parse().unwrap()).map(|()| reach);
        assert_eq!(word(&judged), *expected, "{address}");
    }
}

#[test]
fn by_default_only_public_ipv4_addresses_are_reached() {
    let rows = [
        ("0.0.0.0", "never"),
        ("0.255.255.255", "never"),
        ("1.0.0.0", "ok"),
        ("1.1.1.1", "ok"),
        ("8.8.8.8", "ok"),
        ("9.255.255.255", "ok"),
        ("10.0.0.0", "unnamed"),
        ("10.20.30.40", "unnamed"),
        ("10.255.255.255", "unnamed"),
        ("11.0.0.0", "ok"),
        ("100.63.255.255", "ok"),
        ("100.64.0.0", "unnamed"),
        ("100.100.100.200", "never"),
        ("100.127.255.255", "unnamed"),
        ("100.128.0.0", "ok"),
        ("126.255.255.255", "ok"),
        ("127.0.0.1", "unnamed"),
        ("127.255.255.255", "unnamed"),
        ("128.0.0.0", "ok"),
        ("168.63.129.15", "ok"),
        ("168.63.129.16", "never"),
        ("169.253.255.255", "ok"),
        ("169.254.0.0", "never"),
        ("169.254.169.254", "never"),
        ("169.254.170.2", "never"),
        ("169.255.0.0", "ok"),
        ("172.15.255.255", "ok"),
        ("172.16.0.0", "unnamed"),
        ("172.31.255.255", "unnamed"),
        ("172.32.0.0", "ok"),
        ("191.255.255.255", "ok"),
        ("192.0.0.0", "never"),
        ("192.0.0.192", "never"),
        ("192.0.1.0", "ok"),
        ("192.0.2.1", "never"),
        ("192.0.3.0", "ok"),
        ("192.88.98.255", "ok"),
        ("192.88.99.1", "never"),
        ("192.167.255.255", "ok"),
        ("192.168.0.1", "unnamed"),
        ("192.168.255.255", "unnamed"),
        ("192.169.0.0", "ok"),
        ("198.17.255.255", "ok"),
        ("198.18.0.0", "unnamed"),
        ("198.19.255.255", "unnamed"),
        ("198.20.0.0", "ok"),
        ("198.51.100.7", "never"),
        ("198.51.101.0", "ok"),
        ("203.0.112.255", "ok"),
        ("203.0.113.7", "never"),
        ("203.0.114.0", "ok"),
        ("223.255.255.255", "ok"),
        ("224.0.0.1", "never"),
        ("239.255.255.255", "never"),
        ("240.0.0.1", "never"),
        ("255.255.255.255", "never"),
    ];
    check_addresses(&AddressPolicy::default(), &rows);
}

#[test]
fn by_default_only_global_ipv6_addresses_are_reached() {
    let rows = [
        ("::", "never"),
        ("::1", "unnamed"),
        ("::2", "never"),
        ("::127.0.0.1", "never"),
        ("::8.8.8.8", "never"),
        ("::ffff:8.8.8.8", "ok"),
        ("::ffff:127.0.0.1", "unnamed"),
        ("::ffff:10.1.2.3", "unnamed"),
        ("::ffff:169.254.169.254", "never"),
        ("::ffff:0.0.0.0", "never"),
        ("64:ff9b::a00:1", "unnamed"),
        ("64:ff9b::808:808", "unnamed"),
        ("64:ff9b:1::1", "unnamed"),
        ("64:ff9c::1", "never"),
        ("100::1", "never"),
        ("100:0:0:1::1", "never"),
        ("1fff::1", "never"),
        ("2000::1", "ok"),
        ("2001::1", "never"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "never"),
        ("2001:10::1", "never"),
        ("2001:20::1", "never"),
        ("2001:1ff:ffff::1", "never"),
        ("2001:200::1", "ok"),
        ("2001:db7::1", "ok"),
        ("2001:db8::1", "never"),
        ("2001:db9::1", "ok"),
        ("2001:4860:4860::8888", "ok"),
        ("2002:7f00:1::1", "never"),
        ("2002:808:808::1", "never"),
        ("2003::1", "ok"),
        ("2606:4700:4700::1111", "ok"),
        ("3ffe::1", "ok"),
        ("3fff::1", "never"),
        ("3fff:fff::1", "never"),
        ("3fff:1000::1", "ok"),
        ("4000::1", "never"),
        ("5f00::1", "never"),
        ("fc00::1", "unnamed"),
        ("fd00:ec2::254", "never"),
        ("fd12:3456::1", "unnamed"),
        ("fe80::1", "never"),
        ("febf::1", "never"),
        ("fec0::1", "never"),
        ("feff::1", "never"),
        ("ff02::1", "never"),
        ("ffff::1", "never"),
    ];
    check_addresses(&AddressPolicy::default(), &rows);
}

#[test]
fn every_spelling_of_a_literal_host_is_judged() {
    let rows = [
        ("https://127.0.0.1/", "unnamed"),
        ("https://127.0.0.1./", "unnamed"),
        ("https://127.1/", "unnamed"),
        ("https://2130706433/", "unnamed"),
        ("https://0x7f000001/", "unnamed"),
        ("https://0x7f.1/", "unnamed"),
        ("https://0177.0.0.1/", "unnamed"),
        ("https://017700000001/", "unnamed"),
        ("https://%31%32%37.0.0.1/", "unnamed"),
        ("https://１２７.0.0.1/", "unnamed"),
        ("https://127。0。0。1/", "unnamed"),
        ("https://0/", "never"),
        ("https://[::1]/", "unnamed"),
        ("https://[0:0:0:0:0:0:0:1]/", "unnamed"),
        ("https://[::]/", "never"),
        ("https://[::ffff:127.0.0.1]/", "unnamed"),
        ("https://[::ffff:7f00:1]/", "unnamed"),
        ("https://[::ffff:a9fe:a9fe]/", "never"),
        ("https://[64:ff9b::7f00:1]/", "never"),
        ("https://[2002:7f00:1::]/", "never"),
        ("https://[fe80::1%25eth0]/", "unparsable"),
        ("https://[fe80::1%eth0]/", "unparsable"),
        ("https://[fe80::1]/", "never"),
        ("https://169.254.169.254/latest/meta-data", "never"),
        ("https://0xa9fea9fe/", "never"),
        ("https://2852039166/", "never"),
        ("https://256.1.1.1/", "unparsable"),
        ("https://8.8.8.8/", "ok"),
        ("https://hooks.example.com/ehr", "ok"),
        ("https://localhost/", "ok"), // a name: judged by what it resolves to
    ];
    check(&AddressPolicy::default(), &rows);
}

#[test]
fn schemes_user_info_and_ports_are_judged() {
    let rows = [
        ("ftp://hooks.example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("gopher://hooks.example.com/", "scheme"),
        ("ws://hooks.example.com/", "scheme"),
        ("data:text/plain,x", "scheme"),
        ("https://", "unparsable"),
        ("https://user@hooks.example.com/", "userinfo"),
        ("https://user:secret@hooks.example.com/", "userinfo"),
        ("https://:secret@hooks.example.com/", "userinfo"),
        ("https://8.8.8.8@127.0.0.1/", "userinfo"),
        ("https://8.8.8.8:443/", "ok"),
        ("https://8.8.8.8:80/", "ok"),
        ("https://8.8.8.8:1024/", "ok"),
        ("https://8.8.8.8:8443/", "ok"),
        ("https://8.8.8.8:65535/", "ok"),
        ("https://8.8.8.8:0/", "port"),
        ("https://8.8.8.8:22/", "port"),
        ("https://8.8.8.8:25/", "port"),
        ("https://8.8.8.8:1023/", "port"),
        ("https://8.8.8.8:65536/", "unparsable"),
        ("http://8.8.8.8/", "plain"),
        ("http://8.8.8.8:8080/", "plain"),
        ("http://[2606:4700:4700::1111]/", "plain"),
    ];
    check(&AddressPolicy::default(), &rows);
}

#[test]
fn naming_a_network_opens_private_and_loopback_ranges_only() {
    let hospital = policy(&["10.20.0.0/16", "127.0.0.0/8", "fd12::/16", "8.8.4.0/24"], &[]);
    let rows = [
        ("https://10.20.1.2/", "ok"),
        ("https://10.20.1.2:636/", "ok"),
        ("http://10.20.1.2/", "plain"),
        ("https://10.21.1.2/", "unnamed"),
        ("https://192.168.1.1/", "unnamed"),
        ("https://127.0.0.1:8443/", "ok"),
        ("http://127.0.0.1:8080/", "ok"),
        ("http://127.9.9.9:8080/", "ok"),
        ("http://0x7f.1:8080/", "ok"),
        ("http://[::ffff:127.0.0.1]:8080/", "ok"),
        ("http://[::1]:8080/", "unnamed"),
        ("https://[fd12::5]/", "ok"),
        ("http://[fd12::5]/", "plain"),
        ("https://8.8.4.4:853/", "ok"),
        ("https://8.8.8.8:853/", "port"),
    ];
    check(&hospital, &rows);
}

#[test]
fn naming_everything_still_leaves_metadata_and_reserved_ranges_closed() {
    let wide = policy(&["0.0.0.0/0", "::/0"], &["0.0.0.0/0", "::/0"]);
    let rows = [
        ("http://10.1.1.1/", "ok"),
        ("http://[::1]/", "ok"),
        ("http://8.8.8.8/", "ok"),
        ("https://169.254.169.254/", "never"),
        ("https://[fd00:ec2::254]/", "never"),
        ("https://100.100.100.200/", "never"),
        ("https://168.63.129.16/", "never"),
        ("https://0.0.0.0/", "never"),
        ("https://224.0.0.1/", "never"),
        ("https://[fe80::1]/", "never"),
        ("https://[2002:a00:1::]/", "never"),
        ("https://user@10.1.1.1/", "userinfo"),
    ];
    check(&wide, &rows);
}

#[test]
fn an_ipv4_address_behind_nat64_is_judged_as_well_as_its_prefix() {
    let prefix = policy(&["64:ff9b::/96", "127.0.0.0/8", "10.20.0.0/16"], &[]);
    let rows = [
        ("https://[64:ff9b::8.8.8.8]/", "ok"),
        ("https://[64:ff9b::10.20.1.2]/", "ok"),
        ("https://[64:ff9b::10.21.1.2]/", "unnamed"),
        ("https://[64:ff9b::127.0.0.1]/", "never"),
        ("https://[64:ff9b::169.254.169.254]/", "never"),
        ("https://[64:ff9b::100.100.100.200]/", "never"),
        ("https://[64:ff9b::0.0.0.0]/", "never"),
        ("https://[64:ff9b::224.0.0.1]/", "never"),
        ("https://[64:ff9b:1::8.8.8.8]/", "unnamed"),
    ];
    check(&prefix, &rows);
    let unnamed = policy(&["10.0.0.0/8"], &[]);
    let rows = [
        ("https://[64:ff9b::8.8.8.8]/", "unnamed"),
        ("https://[64:ff9b::10.20.1.2]/", "unnamed"),
        ("https://[64:ff9b::169.254.169.254]/", "never"),
    ];
    check(&unnamed, &rows);
}

#[test]
fn behind_a_local_nat64_the_named_prefix_says_where_the_ipv4_address_lies() {
    // RFC 6052, section 2.4: 192.0.2.33 there, 10.20.2.33 here, by the length of the prefix.
    let rows = [
        (
            "64:ff9b:1::/48",
            "64:ff9b:1:a14:2:2100::",
            "64:ff9b:1:a9fe:a9:fe00::",
        ),
        (
            "64:ff9b:1:100::/56",
            "64:ff9b:1:10a:14:221::",
            "64:ff9b:1:1a9:fe:a9fe::",
        ),
        (
            "64:ff9b:1:1::/64",
            "64:ff9b:1:1:a:1402:2100:0",
            "64:ff9b:1:1:a9:fea9:fe00:0",
        ),
        (
            "64:ff9b:1:1::/96",
            "64:ff9b:1:1::10.20.2.33",
            "64:ff9b:1:1::169.254.169.254",
        ),
        // Of a prefix that no translator has, every place is judged.
        ("64:ff9b:1:8000::/50", "", "64:ff9b:1:a9fe:a9:fe00::"),
        ("64:ff9b:1::/50", "", "64:ff9b:1::169.254.169.254"),
    ];
    for (prefix, private, metadata) in rows {
        let named = policy(&[prefix, "10.20.0.0/16"], &[]);
        let prefix_only = policy(&[prefix], &[]);
        check_addresses(&named, &[(metadata, "never")]);
        if !private.is_empty() {
            check_addresses(&named, &[(private, "ok")]);
            check_addresses(&prefix_only, &[(private, "unnamed")]);
        }
    }
}

#[test]
fn a_plain_http_network_permits_the_scheme_and_opens_nothing() {
    let plain = policy(
        &["10.20.0.0/16"],
        &["10.20.0.0/16", "192.168.0.0/16", "8.8.8.0/24"],
    );
    let rows = [
        ("http://10.20.1.2/", "ok"),
        ("http://192.168.1.1/", "unnamed"),
        ("http://8.8.8.8/", "ok"),
        ("http://8.8.4.4/", "plain"),
        ("http://8.8.8.8:25/", "port"),
    ];
    check(&plain, &rows);
}

#[test]
fn a_refusal_says_what_to_write_instead() {
    let refused = AddressPolicy::default().check_url(&Url::parse("https://10.1.2.3/a?b=c").unwrap());
    assert_eq!(
        refused.unwrap_err().to_string(),
        "10.1.2.3 is private; name its network in allow_networks if it is meant"
    );
}
