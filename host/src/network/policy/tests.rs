// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::*;

fn policy(preset: &str, allow: &str) -> Policy {
    let recorded = [
        "pip=https://index.example/simple/",
        "apt=http://deb.example/debian/",
    ];
    let recorded: Vec<Registry> = recorded.map(|text| text.parse().expect(text)).into();
    Policy::parse(preset, allow, &recorded.into()).expect("a policy")
}

fn target(text: &str) -> Target {
    Target::parse(text, None).expect(text)
}

fn permits(policy: &Policy, text: &str) -> bool {
    policy.permits(&target(text)).is_ok()
}

#[test]
fn hosts_are_normalised() {
    for (text, normal) in [
        ("EXAMPLE.com.:443", "example.com:443"),
        ("b\u{fc}cher.example:80", "xn--bcher-kva.example:80"),
        ("0x7f.1:80", "127.0.0.1:80"),
        ("2130706433:80", "127.0.0.1:80"),
        ("127.1:80", "127.0.0.1:80"),
        ("127.0.0.1.:80", "127.0.0.1:80"),
        ("0177.0.0.1:80", "127.0.0.1:80"),
        ("ex%61mple.com:1", "example.com:1"),
        ("\u{ff11}27.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("[0:0::0001]:80", "[::1]:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
    ] {
        assert_eq!(target(text).to_string(), normal);
    }
    assert_eq!(
        Target::new("::1", 1).expect("no brackets").to_string(),
        "[::1]:1"
    );
    for text in [
        "",
        ":80",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:x",
        "a b:1",
        "a/b:1",
        "a@b:1",
        "[::1:1",
        "::1]:1",
        "[fe80::1%eth0]:1",
        ".:1",
        "..:1",
        "a..b:1",
        ".a:1",
        "a:1:2",
        "999.1.1.1:1",
        "a:+1",
        &format!("{}:1", "a.".repeat(130)),
    ] {
        assert!(Target::parse(text, None).is_err(), "{text}");
    }
}

#[test]
fn entries_permit_what_they_say() {
    let listed = policy(
        "none",
        "one.example, two.example:8080, *.sub.example, *.port.example:1, 192.0.2.0/24, 10.1.2.3:80, [fd00::1]:80, fd00::2",
    );
    for text in [
        "one.example:1",
        "ONE.example.:65535",
        "two.example:8080",
        "a.sub.example:5",
        "a.b.sub.example:5",
        "a.port.example:1",
        "192.0.2.255:9",
        "10.1.2.3:80",
        "[fd00::1]:80",
        "[fd00::2]:1",
        "[::ffff:10.1.2.3]:80",
        "0xa.1.2.3:80",
    ] {
        assert!(permits(&listed, text), "{text}");
    }
    for text in [
        "an.one.example:1",
        "two.example:80",
        "sub.example:5",
        "asub.example:5",
        "a.port.example:2",
        "192.0.3.0:9",
        "10.1.2.3:81",
        "10.1.2.4:80",
        "[fd00::1]:81",
        "[fd00::3]:1",
        "other.example:1",
    ] {
        assert!(!permits(&listed, text), "{text}");
    }
}

#[test]
fn presets() {
    let packages = policy("packages", "");
    for text in ["index.example:443", "deb.example:80", "deb.example:443"] {
        assert!(permits(&packages, text), "{text}");
        assert!(permits(&policy("all", ""), text) && !permits(&policy("none", ""), text));
    }
    for text in [
        "index.example:80",
        "deb.example:81",
        "files.example:443",
        "192.0.2.1:443",
    ] {
        assert!(!permits(&packages, text), "{text}");
        assert!(permits(&policy("ALL", ""), text), "{text}");
    }
    for text in [
        "127.0.0.1:80",
        "[::1]:80",
        "169.254.169.254:80",
        "[::ffff:7f00:1]:1",
    ] {
        assert!(!permits(&policy("all", ""), text), "{text}");
        assert!(!permits(&policy("all", "other.example"), text), "{text}");
    }
    let own = Packages::parse("npm=https://npm.example/, files.example:81");
    let own = own.expect("entries of both kinds");
    assert_eq!(own.registries.len(), 1);
    let own = Policy::parse("packages", "", &own).expect("a policy");
    assert!(permits(&own, "npm.example:443") && permits(&own, "files.example:81"));
    assert!(!permits(&own, "index.example:443"));
    let words: Vec<_> = [
        ("none", ""),
        ("packages", "a.example:1"),
        ("none", "192.0.2.1"),
        ("all", ""),
    ]
    .map(|(preset, allow)| policy(preset, allow).to_string())
    .into();
    assert_eq!(words, ["none", "packages, a.example:1", "192.0.2.1", "all"]);
}

/// Also those that nothing is mirrored of.
#[test]
fn the_registries_of_any_manager_are_packages() {
    let text = "cargo=https://c.example/, cargo-files=https://f.example:8443/crates/, \
                go=https://go.example, apk=http://a.example/main/";
    let set = Packages::parse(text).expect("registries");
    let recorded: Vec<Registry> = text
        .split(',')
        .map(|entry| entry.trim().parse().expect(entry))
        .collect();
    for packages in [set, recorded.into()] {
        let policy = Policy::parse("packages", "", &packages).expect("a policy");
        for text in [
            "c.example:443",
            "f.example:8443",
            "f.example:443",
            "go.example:443",
            "a.example:80",
            "a.example:443",
        ] {
            assert!(permits(&policy, text), "{text}");
        }
        for text in ["c.example:80", "f.example:80", "index.example:443"] {
            assert!(!permits(&policy, text), "{text}");
        }
    }
}

#[test]
fn only_listed_addresses_of_special_ranges_are_reached() {
    let listed = policy("none", "name.example, 10.0.0.0/8, 127.0.0.1:80");
    let name = |port| target(&format!("name.example:{port}"));
    let at =
        |port, address: &str| listed.permits_address(&name(port), address.parse().expect(address));
    assert!(at(1, "10.9.9.9").is_ok() && at(80, "127.0.0.1").is_ok() && at(1, "192.0.2.1").is_ok());
    assert!(at(1, "::ffff:10.9.9.9").is_ok());
    for (port, address) in [
        (81, "127.0.0.1"),
        (80, "127.0.0.2"),
        (1, "192.168.0.1"),
        (1, "fe80::1"),
    ] {
        let denial = at(port, address).expect_err(address);
        assert_eq!(denial.kind, DenialKind::SpecialAddress);
        let text = denial.to_string();
        assert!(text.contains(address) && text.contains("RFC"), "{text}");
        assert!(
            text.contains(&format!("{ALLOW_SETTING}={address}")),
            "{text}"
        );
    }
}

#[test]
fn a_denial_says_what_was_asked_which_rule_refused_it_and_what_permits_it() {
    let denial = policy("packages", "")
        .permits(&target("evil.example:443"))
        .expect_err("refused");
    assert_eq!(
        denial.to_string(),
        "evil.example:443 is refused: the server's network policy is packages; the server's owner permits it with WAGGLE_NETWORK_ALLOW=evil.example:443"
    );
    let narrowed = policy("all", "").narrow("index.example").expect("less");
    let denial = narrowed
        .permits(&target("evil.example:443"))
        .expect_err("refused");
    assert!(denial.rule.contains("environment") && denial.rule.contains("index.example"));
    assert!(denial.remedy.contains("create an environment"), "{denial}");
}

#[test]
fn what_is_no_policy_names_the_entry() {
    for entry in [
        "http://a.example/",
        "a.example/x",
        "*",
        "*.*.example",
        "a.*.example",
        "*a.example",
        "a.example:0",
        "a.example:",
        "a.example:99999",
        "a b",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "::ffff:10.0.0.0/104",
        "0x7f.1",
        "127.1",
        "*.10.0.0.1",
        "[::1",
        "packages",
    ] {
        let text = format!("good.example, {entry}");
        let error = Policy::parse("none", &text, &Packages::default()).expect_err(entry);
        assert!(matches!(error, PolicyError::Entry { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{entry:?}")), "{error}");
    }
    let error = Policy::parse("some", "", &Packages::default())
        .expect_err("no preset")
        .to_string();
    assert!(error.contains("some") && error.contains(PRESETS), "{error}");
    let many = "a.example,".repeat(ENTRIES_MAX + 1);
    assert!(matches!(
        Policy::parse("none", &many, &Packages::default()),
        Err(PolicyError::TooMany { .. })
    ));
    assert!(Packages::parse("pip=nowhere").is_err());
}

/// A password may hold the comma that separates entries: then no part of it looks like one.
#[test]
fn no_error_repeats_a_part_of_a_password() {
    for url in [
        "https://me:hush,secret@index.example/simple/",
        "https://me:hush,pip=secret@index.example/",
        "https://hush,secret@index.example/",
        "https://me:hush,secret=https://x:hush@index.example/",
        "https://me:hush,https://secret@index.example/",
        "https://me:443,hush,secret@index.example/",
        "https://me:443,secret=https://x:hush@index.example/",
        "https://me:hush@index.example/",
        "https://me:hush@index.example/,pip=a.example",
        "hush@index.example",
    ] {
        for text in [format!("pip={url}"), format!("a.example, {url}")] {
            let all = Policy::parse("all", "", &Packages::default()).expect("a policy");
            let errors = [
                Packages::parse(&text).expect_err(&text),
                Policy::parse("none", &text, &Packages::default()).expect_err(&text),
                Policy::parse(&text, "", &Packages::default()).expect_err(&text),
                all.narrow(&text).expect_err(&text),
            ];
            for error in errors {
                let told = format!("{error} {error:?}");
                assert!(!told.contains("hush") && !told.contains("secret"), "{told}");
            }
        }
    }
    let error = Packages::parse("npm=https://me:hush@npm.example/").expect_err("a password");
    let told = format!("{error:?}");
    assert!(told.contains("Npm"), "{told}");
}

#[test]
fn narrowing_takes_away() {
    let server = policy("packages", "*.dev.example, 10.0.0.0/8, one.example:80");
    for (text, open, closed) in [
        ("none", "", "index.example:443"),
        ("packages", "index.example:443", "a.dev.example:1"),
        (
            "packages, a.dev.example",
            "a.dev.example:7",
            "b.dev.example:7",
        ),
        ("*.a.dev.example", "x.a.dev.example:7", "a.dev.example:7"),
        ("10.2.0.0/16", "10.2.3.4:5", "10.3.0.0:5"),
        ("one.example", "one.example:80", "one.example:81"),
        ("one.example:80", "one.example:80", "index.example:443"),
    ] {
        let narrowed = server.narrow(text).expect(text);
        assert!(
            open.is_empty() || permits(&narrowed, open),
            "{text}: {open}"
        );
        assert!(!permits(&narrowed, closed), "{text}: {closed}");
    }
    for (text, named) in [
        ("all", "all"),
        ("index.example, evil.example", "evil.example"),
        ("one.example:81", "one.example:81"),
        ("*.example", "*.example"),
        ("*.one.example", "*.one.example"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("11.0.0.1", "11.0.0.1"),
    ] {
        let error = server.narrow(text).expect_err(text);
        assert!(matches!(error, PolicyError::Beyond { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains(&format!("{named:?}")) && error.contains(ALLOW_SETTING),
            "{error}"
        );
    }
    for text in ["", " , ", "pakages"] {
        let error = server.narrow(text).expect_err(text).to_string();
        assert!(error.contains(PRESETS), "{error}");
        assert!(policy("all", "").narrow(text).is_err());
    }
    assert_eq!(
        server.narrow("none, packages").expect_err("both"),
        PolicyError::None
    );
    assert!(policy("none", "").narrow("packages").is_err());
    assert!(policy("all", "").narrow("10.0.0.1").is_err());
    assert!(policy("all", "").narrow("packages").is_ok());
    // What the operator lists stays reachable by the names that are left.
    let address = "10.1.1.1".parse().expect("an address");
    let narrowed = server.narrow("packages").expect("less");
    assert!(
        narrowed
            .permits_address(&target("index.example:443"), address)
            .is_ok()
    );
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{1}\\.example",
        "[ab]\\.[ab]\\.example",
        Just("index.example".to_owned()),
        any::<[u8; 4]>().prop_map(|_| "10.0.0.1".to_owned()),
        (0_u8..3, 0_u8..3).prop_map(|(a, b)| format!("10.{a}.{b}.1")),
        Just("[fd00::1]".to_owned()),
        Just("127.0.0.1".to_owned()),
        Just("8.8.8.8".to_owned()),
    ]
}

fn entry() -> impl Strategy<Value = String> {
    let ports = prop_oneof![Just(""), Just(":80"), Just(":443")];
    prop_oneof![
        (host(), ports.clone()).prop_map(|(host, port)| format!("{host}{port}")),
        ("[ab]\\.example|example", ports).prop_map(|(name, port)| format!("*.{name}{port}")),
        (0_u8..3, 8_u8..25).prop_map(|(a, length)| {
            let net: IpNet = format!("10.{a}.0.0/{length}").parse().expect("a range");
            net.trunc().to_string()
        }),
    ]
}

fn preset() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("none"), Just("packages"), Just("all")]
}

proptest! {
    #[test]
    fn narrowing_never_permits_what_the_server_refuses(
        operators in preset(),
        allow in proptest::collection::vec(entry(), 0..4),
        narrow in proptest::collection::vec(prop_oneof![3 => entry(), 1 => preset().prop_map(str::to_owned)], 1..4),
        host in host(),
        port in prop_oneof![Just(80_u16), Just(443), any::<u16>().prop_filter("a port", |port| *port != 0)],
        resolved in (0_u8..3, 0_u8..3),
    ) {
        let server = policy(operators, &allow.join(","));
        if let Ok(narrowed) = server.narrow(&narrow.join(",")) {
            let target = Target::new(&host, port).expect("a target");
            prop_assert!(narrowed.permits(&target).is_err() || server.permits(&target).is_ok());
            let address = IpAddr::from([10, resolved.0, resolved.1, 1]);
            prop_assert_eq!(
                narrowed.permits_address(&target, address),
                server.permits_address(&target, address)
            );
        }
    }

    #[test]
    fn nothing_in_a_special_range_is_permitted_unlisted(host in "\\PC{0,40}", port in 1_u16..) {
        if let Ok(target) = Target::new(&host, port)
            && let Some(address) = target.literal()
        {
            let open = permits(&policy("all", ""), &target.to_string());
            prop_assert_eq!(open, address::special(address).is_none());
        }
    }

    #[test]
    fn parsing_takes_anything(text in "\\PC{0,60}") {
        let _ = Packages::parse(&text).map(|packages| Policy::parse(&text, &text, &packages));
        let _ = policy("all", "").narrow(&text);
        if let Ok(target) = Target::parse(&text, Some(80)) {
            // A denial's text goes into header lines.
            prop_assert!(target.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(Target::parse(&target.to_string(), None), Ok(target));
        }
    }

    #[test]
    fn entries_are_their_own_parse(text in entry()) {
        let parsed = Entry::parse(&text).expect("an entry");
        prop_assert_eq!(Entry::parse(&parsed.to_string()), Ok(parsed));
    }
}
