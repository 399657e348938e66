use super::*;

fn sort(check: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
    for value in good {
        assert!(check(value).is_ok(), "refused {value:?}: {:?}", check(value));
    }
    for value in bad {
        let (why, next) = check(value).expect_err(&format!("accepted {value:?}"));
        assert!(!why.is_empty() && !next.is_empty());
        assert!(why.chars().count() < 250, "{why}");
    }
}

#[test]
fn users() {
    sort(
        user,
        &[
            "/DC=ch/DC=cern/OU=Organic Units/OU=Users/CN=zoe/CN=123456/CN=Zoë Exämple",
            "/CN=host/node1.example.org",
            "/O=GRID-FR/CN=Robot: a=b/c d=e",
            "/C=UK/O=eScience/CN=a b/emailAddress=a@b.example",
            "/0.9.2342.19200300.100.1.1=zoe/CN=x",
            "/CN=a+b, c; \"d\"",
            "5b1d4a0e-3f1c-4d3f-9b60-1d2a0f4c7a11",
            "host:node1.example.org",
            "zoe@example.org",
            "some one",
            "abc==",
            "x=1,y=2",
            "~",
        ],
        &[
            "",
            " a",
            "a ",
            "a\tb",
            "a\nb",
            "a\0",
            "a\u{7f}",
            "a\u{85}b",
            "/",
            "//",
            "/x",
            "/CN",
            "/CN=",
            "/CN= /O=x",
            "/CN=/O=x",
            "/=x",
            "/CN=x/=y",
            "/C N=x",
            "//CN=x",
            "/x/CN=y",
            "zoë",
            "CN=Zoe",
            "cn=Zoe,dc=ch",
            "CN = Zoe, O = X",
            "O=X,CN=Zoe",
            "OID.1.2=x,CN=y",
            &"a".repeat(256),
            &format!("/CN={}", "a".repeat(1021)),
        ],
    );
    assert!(user(&"a".repeat(255)).is_ok());
    assert!(user(&format!("/CN={}", "a".repeat(1020))).is_ok());
}

#[test]
fn the_slash_form_is_offered() {
    let next = |value| user(value).unwrap_err().1;
    assert!(next("CN=Zoe Q, OU=Users, DC=cern,DC=ch").ends_with(" /DC=ch/DC=cern/OU=Users/CN=Zoe Q"));
    assert!(next("C=UK,O=X,CN=Zoe").ends_with(" /C=UK/O=X/CN=Zoe"));
    assert!(next("DC=ch,DC=cern,CN=Zoe").ends_with(" /DC=ch/DC=cern/CN=Zoe"));
    assert!(next("CN=Zoe\\, Q,O=X").ends_with(" /O=X/CN=Zoe, Q"));
    assert!(next("CN=\"Zoe,O=X").contains("/DC=org"));
}

#[test]
fn nothing_invisible_passes_in_any_value() {
    let hostile = [
        '\u{1}',
        '\u{1b}',
        '\u{9b}',
        '\u{a0}',
        '\u{ad}',
        '\u{200b}',
        '\u{200e}',
        '\u{202e}',
        '\u{2028}',
        '\u{2029}',
        '\u{2066}',
        '\u{2069}',
        '\u{3000}',
        '\u{3164}',
        '\u{feff}',
        '\u{fff9}',
        '\u{e0041}',
    ];
    for c in hostile {
        for (check, value) in [
            (user as fn(&str) -> Check, format!("/CN=a{c}b")),
            (user, format!("a{c}b")),
            (issuer, format!("https://a{c}b.example")),
            (vo, format!("a{c}b")),
            (group, format!("/a{c}b")),
            (|value| plain(value, 255), format!("a{c}b")),
        ] {
            assert!(check(&value).is_err(), "{value:?}");
        }
    }
}

#[test]
fn credentials_are_refused_and_not_repeated() {
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
    for value in [
        token,
        &format!("Bearer {token}"),
        &format!("\"{token}\""),
        &token.repeat(30),
        &format!("/CN={token}"),
        &format!("https://iam.example/{token}"),
        "-----BEGIN CERTIFICATE-----",
        "/CN=x/CN=-----BEGIN RSA PRIVATE KEY-----\nMII",
    ] {
        for check in [user as fn(&str) -> Check, issuer, vo, group, |value| plain(value, 255)] {
            let (why, next) = check(value).expect_err(value);
            assert!(why.contains("looks like a token"), "{why}");
            assert!(!why.contains("eyJ") && !next.contains("eyJ") && !why.contains("BEGIN"));
        }
    }
    for harmless in ["eyJ.a.b", "KeyJunction99.example.org", "eyJunction99.org"] {
        assert!(user(harmless).is_ok(), "{harmless}");
    }
}

#[test]
fn issuers() {
    sort(
        issuer,
        &[
            "https://iam.example.org",
            "https://iam.example.org/",
            "https://cms-auth.cern.ch:8443/realms/x%20y/",
            "https://localhost/x@y",
            "https://192.0.2.1",
            "https://[2001:db8::1]:443/x",
        ],
        &[
            "",
            "http://iam.example.org",
            "HTTPS://iam.example.org",
            "iam.example.org",
            "https://",
            "https:///x",
            "https://a@b.example",
            "https://a:b@c.example/",
            "https://a.example?x",
            "https://a.example/#x",
            "https://a.example:0",
            "https://a.example:",
            "https://a.example:65536",
            "https://a.example:+1",
            "https://a..example",
            "https://-a.example",
            "https://a_b.example",
            "https://a.example/ x",
            "https://a.example/%zz",
            "https://a.example/%2",
            "https://a.example/\\x",
            "https://a.example/é",
            "https://[::1",
            "https://[x]",
            "https://[::1]x",
            &format!("https://{}", "a.".repeat(200)),
        ],
    );
}

#[test]
fn vos_and_groups() {
    sort(
        vo,
        &["atlas", "vo.example.org", "a", "9lives", "x_y-z"],
        &["", "/atlas", "-x", ".x", "a b", "a/b", "a=b", "atläs", &"a".repeat(256)],
    );
    sort(
        group,
        &[
            "/atlas",
            "/atlas/de",
            "/atlas/Role=production",
            "/atlas/de/Role=NULL/Capability=NULL",
            "/vo.example.org/x_y/Capability=NULL",
            "ivo://example.org/gms?my-group",
            "ivo://example.org/a/b?c/d%20e",
        ],
        &[
            "",
            "atlas",
            "/",
            "//atlas",
            "/atlas/",
            "/atlas//x",
            "/Role=x",
            "/atlas/Role=",
            "/atlas/Role=a/Role=b",
            "/atlas/Role=a/de",
            "/atlas/Capability=a/Role=b",
            "/atlas/role=x",
            "/atlas/..",
            "/atlas/a b",
            "/atlas?x",
            "ivo://",
            "ivo://example.org/gms",
            "ivo://example.org/gms?",
            "ivo://example.org?x",
            "ivo:///gms?x",
            "ivo://example.org/?x",
            "ivo://example.org/gms?x#y",
            "ivo://example.org/gms?x y",
            "IVO://example.org/gms?x",
            "ivo://u@example.org/gms?x",
        ],
    );
}

#[test]
fn counts_and_lengths() {
    let said = |groups: &[String], job: &str| {
        let said = Said {
            user: None,
            issuer: None,
            vo: None,
            groups,
            name: None,
            pilot: None,
            job: Some(job),
            task: None,
        };
        said.check().map_err(|fault| fault.field)
    };
    let groups: Vec<String> = (0..129).map(|n| format!("/g{n}")).collect();
    assert_eq!(said(&groups, "1"), Err("group"));
    assert_eq!(said(&groups[..128], "1"), Ok(()));
    assert_eq!(said(&[], &"é".repeat(127)), Ok(()));
    assert_eq!(said(&[], &"é".repeat(128)), Err("job"));
}

/// Whatever is accepted keeps rule 1, for many strings made of the pieces that matter.
#[test]
fn accepted_values_are_one_bounded_visible_line() {
    let pieces = [
        "/", "=", "CN", "CN=", "a", " ", "\n", "\u{202e}", "é", ",", "https://", "ivo://", "?", "eyJ", ".",
        "Role=", "%", "[", ":", "@", "\0", "\u{feff}",
    ];
    let mut seed: u64 = 1;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let mut accepted = 0;
    for _ in 0..50_000 {
        let value: String = (0..=next() % 8).map(|_| pieces[next() % pieces.len()]).collect();
        for check in [user as fn(&str) -> Check, issuer, vo, group, |value| plain(value, 255)] {
            if check(&value).is_ok() {
                accepted += 1;
                let hidden = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{feff}');
                assert!(!value.is_empty() && value.trim() == value && !value.contains(hidden));
            }
        }
    }
    assert!(accepted > 1000, "{accepted}");
}
