// SPDX-FileCopyrightText: Copyright 2026 The Waggle Authors
// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;

fn of(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn hex() -> String {
    Digest::of(b"honey").to_string()
}

#[test]
fn completes_as_docker_does() {
    let long = format!("python@{}", hex());
    let cases = [
        ("python", "docker.io/library/python:latest".to_owned()),
        (
            "python:3.13-slim",
            "docker.io/library/python:3.13-slim".to_owned(),
        ),
        ("acme/tool", "docker.io/acme/tool:latest".to_owned()),
        (
            "docker.io/python",
            "docker.io/library/python:latest".to_owned(),
        ),
        (
            "index.docker.io/python",
            "docker.io/library/python:latest".to_owned(),
        ),
        (
            "Index.Docker.IO/python",
            "docker.io/library/python:latest".to_owned(),
        ),
        ("GHCR.io/acme/tool:V1", "ghcr.io/acme/tool:V1".to_owned()),
        ("localhost:5000/x/y", "localhost:5000/x/y:latest".to_owned()),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".to_owned()),
        ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
        ("[0:0::0:1]:5000/x/y:1", "[::1]:5000/x/y:1".to_owned()),
        (
            "[2001:DB8::A]/acme/tool",
            "[2001:db8::a]/acme/tool:latest".to_owned(),
        ),
        (
            "localhost/waggle-base",
            "localhost/waggle-base:latest".to_owned(),
        ),
        (&long, format!("docker.io/library/python@{}", hex())),
    ];
    for (text, canonical) in cases {
        assert_eq!(of(text).to_string(), canonical, "{text}");
        assert_eq!(of(&canonical), of(text), "{text}");
    }
}

#[test]
fn only_localhost_without_a_port_is_local() {
    assert!(of("localhost/waggle-python").is_local());
    assert!(of("localhost/team/tool:1").is_local());
    for other in [
        "localhost:5000/x",
        "127.0.0.1/x",
        "waggle-python",
        "localhost",
        "localhost.example/x",
    ] {
        assert!(!of(other).is_local(), "{other}");
    }
}

#[test]
fn a_digest_beside_a_tag_decides() {
    let both = of(&format!("python:3.13@{}", hex()));
    assert_eq!(both.tag(), Some("3.13"));
    assert_eq!(both.target(), hex());
    assert_eq!(
        both.to_string(),
        format!("docker.io/library/python:3.13@{}", hex())
    );
    let pinned = of("python:3.13").with_digest(Digest::of(b"honey"));
    assert_eq!((pinned.tag(), pinned.target()), (None, hex()));
    assert_eq!(of("python").target(), "latest");
}

#[test]
fn an_error_names_the_text_and_valid_forms() {
    let sha512 = format!("python@sha512:{}", "0".repeat(128));
    let upper = format!("python@{}", hex().to_uppercase().replace("SHA", "sha"));
    let long = "a/".repeat(200) + "x";
    for text in [
        "",
        "Python",
        "acme//tool",
        "python:",
        ":3",
        "python@sha256:00",
        "https://ghcr.io/x",
        "a b",
        "../x",
        "[::1]",
        "[::1]:5000",
        "[::1]:x/y",
        "[::1]x/y",
        "[::1].example/y",
        "[::1]/X",
        "[::1/x",
        "[]/x",
        "[::g]/x",
        "[127.0.0.1]/x",
        "[fe80::1%eth0]/x",
        "x/[::1]/y",
        "::1/x",
        "LOCALHOST/x",
        "ghcr.io/Acme/tool",
        "python\n",
        &sha512,
        &upper,
        &long,
    ] {
        let error = text.parse::<Reference>().expect_err(text);
        let shown = error.to_string();
        assert!(shown.contains(&format!("{text:?}")), "{shown}");
        assert!(shown.contains("ghcr.io/acme/tool:1"), "{shown}");
    }
}

#[test]
fn is_text_in_json() {
    let json = serde_json::to_string(&of("python")).expect("text");
    assert_eq!(json, "\"docker.io/library/python:latest\"");
    assert_eq!(
        serde_json::from_str::<Reference>(&json).expect("a reference"),
        of("python")
    );
    assert!(serde_json::from_str::<Reference>("\"Python\"").is_err());
}

fn permits(list: &str, reference: &str) -> bool {
    let list = AllowList::parse(list).unwrap_or_else(|error| panic!("{error}"));
    list.permits(&of(reference))
}

#[test]
fn a_repository_permits_all_of_itself() {
    let pinned = format!("python:3@{}", hex());
    for reference in ["python", "python:3.13", "docker.io/library/python", &pinned] {
        assert!(permits("python", reference), "{reference}");
        assert!(
            permits("docker.io/library/python", reference),
            "{reference}"
        );
    }
    for reference in [
        "pythons",
        "acme/python",
        "ghcr.io/library/python",
        "localhost/python",
    ] {
        assert!(!permits("python", reference), "{reference}");
    }
}

#[test]
fn a_tag_permits_what_has_it_and_no_digest() {
    let list = "docker.io/library/python:3.*, node:22";
    assert!(permits(list, "python:3.13"));
    assert!(permits(list, "node:22"));
    assert!(!permits(list, "python"));
    assert!(!permits(list, "python:2.7"));
    assert!(!permits(list, "node:22-slim"));
    // Nobody would check that the digest is of that tag.
    assert!(!permits(list, &format!("python:3.13@{}", hex())));
}

#[test]
fn a_digest_permits_itself_alone() {
    let list = format!("ghcr.io/acme/tool@{}", hex());
    assert!(permits(&list, &format!("ghcr.io/acme/tool@{}", hex())));
    assert!(permits(&list, &format!("ghcr.io/acme/tool:1@{}", hex())));
    assert!(!permits(&list, "ghcr.io/acme/tool:1"));
    let other = Digest::of(b"wax");
    assert!(!permits(&list, &format!("ghcr.io/acme/tool@{other}")));
}

#[test]
fn wildcards_stay_within_their_part() {
    assert!(permits("ghcr.io/acme/*", "ghcr.io/acme/tool:1"));
    assert!(!permits("ghcr.io/acme/*", "ghcr.io/acme/team/tool"));
    assert!(permits("ghcr.io/acme/**", "ghcr.io/acme/team/tool"));
    assert!(!permits("ghcr.io/acme/**", "ghcr.io/acmes/tool"));
    assert!(permits("ghcr.io/acme/t??l", "ghcr.io/acme/tool"));
    assert!(permits("docker.io/*", "python") && !permits("docker.io/*", "acme/tool"));
    assert!(permits("docker.io/**", "python") && permits("docker.io/**", "acme/tool"));
    assert!(permits("localhost/*", "localhost/waggle-base"));
    assert!(!permits("localhost/*", "localhost:5000/waggle-base"));
    assert!(permits("LOCALHOST:5000/*", "localhost:5000/x"));
    assert!(permits("[0::1]:5000/*", "[::1]:5000/x"));
    assert!(!permits("[::1]:5000/*", "[::2]:5000/x") && !permits("[::1]/*", "[::1]:5000/x"));
}

#[test]
fn one_star_is_everything_and_nothing_is_nothing() {
    for reference in ["python", "ghcr.io/a/b/c:1", "localhost/x", "127.0.0.1:1/x"] {
        assert!(permits("*", reference));
        assert!(!permits("", reference) && !permits(" , ,", reference));
    }
    assert!(AllowList::parse("").expect("a list").is_empty());
}

#[test]
fn refuses_patterns_that_could_mean_another_registry_or_nothing() {
    for pattern in [
        "**",
        "*/tool",
        "*.io/acme/tool",
        "gh?r.io/acme/tool",
        "ghcr.*/acme/*",
        "*:3",
        "py*",
        "acme*/tool",
        "ghcr.io/",
        "ghcr.io/Acme/*",
        "ghcr.io/acme/{a,b}",
        "ghcr.io/acme/[ab]",
        "!python",
        "python:",
        "python@sha256:00",
        "https://ghcr.io/acme/*",
        "python:3@sha256:0",
        "ghcr.io//x",
        "localhost:*/x",
        "[::1]:*/x",
        "[::*]/x",
        "[::1]",
        "[::1]:5000",
        "[::1]/[ab]",
    ] {
        // The comma in braces ends a pattern; its first half is refused as well.
        let error = AllowList::parse(pattern).expect_err(pattern);
        assert!(error.to_string().contains("ghcr.io/acme/*"), "{error}");
    }
}

fn part() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,6}"
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("docker.io".to_owned()),
        Just("localhost".to_owned()),
        "[a-z]{1,5}\\.(io|example)(:[1-9][0-9]{0,3})?",
        "localhost:[1-9][0-9]{0,3}",
        "\\[[1-9a-f]{1,4}::[1-9a-f]{1,4}\\](:[1-9][0-9]{0,3})?",
    ]
}

proptest! {
    #[test]
    fn a_canonical_name_is_its_own(host in host(), path in prop::collection::vec(part(), 1..4), tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,9}") {
        let reference = of(&format!("{host}/{}:{tag}", path.join("/")));
        prop_assert_eq!(of(&reference.to_string()), reference);
    }

    #[test]
    fn no_pattern_reaches_another_registry(
        pattern_host in host(),
        pattern in "[a-z*?/]{1,12}(:[a-z*?.]{1,5})?",
        other_host in host(),
        path in prop::collection::vec(part(), 1..4),
    ) {
        let reference = of(&format!("{other_host}/{}", path.join("/")));
        prop_assume!(reference.registry() != pattern_host);
        if let Ok(list) = AllowList::parse(&format!("{pattern_host}/{pattern}")) {
            prop_assert!(!list.permits(&reference), "{} by {}/{}", reference, pattern_host, pattern);
        }
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,40}") {
        let _ = text.parse::<Reference>();
        let _ = AllowList::parse(&text);
    }
}
