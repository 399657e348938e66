use super::*;

fn key(text: &str) -> String {
    Name::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}")).key()
}

#[test]
fn all_spellings_of_one_dn_have_one_key() {
    let table: &[&[&str]] = &[
        &[
            "/DC=ch/DC=cern/OU=Users/CN=zoe/CN=Zoë Example",
            "/dc=CH/DC=cern/ou=users/CN=zoe/CN=ZOË  example ",
            "CN=Zoë Example,CN=zoe,OU=Users,DC=cern,DC=ch",
            "cn=Zoë Example, cn=zoe; ou=Users , dc=cern,dc=ch",
            "DC = ch, DC = cern, OU = Users, CN = zoe, CN = Zoë Example",
            "OID.2.5.4.3=Zoë Example,2.5.4.3=zoe,oid.2.5.4.11=Users,0.9.2342.19200300.100.1.25=cern,DC=ch",
            "/2.5.4.3=Zoë Example/OID.2.5.4.3=zoe/2.5.4.11=Users/DC=cern/DC=ch",
            "CN=Zo\\C3\\AB Example,CN=zoe,OU=Users,DC=cern,DC=ch",
            "CN=\"Zoë Example\",CN=zoe,OU=Users,DC=cern,DC=ch",
            "CN=#0c0c5a6fc3ab204578616d706c65,CN=zoe,OU=Users,DC=cern,DC=ch",
            "/DC=ch/DC=cern/OU=Users/CN=zoe/CN=Zo\\xC3\\xAB Example",
            "/DC=ch/DC=cern/OU=Users/CN=zoe/CN=Zo\\xEB Example",
            "/DC=ch/DC=cern/OU=Users/CN=zoe/CN=Zoe\u{308} Example",
            "/DC=ch/DC=cern/OU=Users/CN=zoe/CN=Zo\u{200b}ë Example",
        ],
        &[
            "/O=Grid/CN=host/node.example.org",
            "CN=host/node.example.org,O=Grid",
            "O=Grid, CN=host/node.example.org",
            "CN=host\\/node.example.org,O=Grid",
            "CN=host\\2Fnode.example.org,O=Grid",
        ],
        &[
            "/O=Doe, Inc./CN=Doe, John",
            "CN=Doe\\, John,O=Doe\\, Inc.",
            "CN=Doe\\2C John,O=\"Doe, Inc.\"",
            "CN=Doe, John,O=Doe, Inc.", // as a naive converter writes it
        ],
        &["/O=x/CN=a+b=c", "CN=a\\+b\\=c,O=x", "CN=\"a+b=c\",O=x", "CN=a+b=c,O=x"],
        &["/O=x/CN=a+b", "CN=a\\+b,O=x", "CN=a+b,O=x"],
        &["/O=x/CN=k=v", "CN=k\\=v,O=x", "CN=k=v,O=x"],
        &[
            "/O=x/CN=Zoe+UID=z1",
            "/O=x/CN=Zoe/UID=z1",
            "/O=x/UID=z1/CN=Zoe",
            "CN=Zoe+UID=z1,O=x",
            "UID=z1 + CN=Zoe, O=x",
            "O=x,CN=Zoe+USERID=z1",
        ],
        &[
            "/O=x/CN=Zoe/emailAddress=zoe@example.org",
            "/O=x/CN=Zoe/Email=zoe@example.org",
            "E=ZOE@example.org,CN=Zoe,O=x",
            "1.2.840.113549.1.9.1=#160f7a6f65406578616d706c652e6f7267,CN=Zoe,O=x",
        ],
        &["/C=DE/ST=NRW/CN=x", "CN=x,S=NRW,C=DE", "CN=x,stateOrProvinceName=nrw,C=de"],
        &["/O=a\\b/CN=x", "CN=x,O=a\\\\b", "CN=x,O=\"a\\\\b\""],
        &["/O=x/1.2.3.4=y", "OID.1.2.3.4=y,O=x"],
        &["/O=x/foo=Y", "FOO=y,O=x"],
    ];
    for spellings in table {
        for spelling in *spellings {
            assert_eq!(key(spelling), key(spellings[0]), "{spelling}");
            let Name::Dn(dn) = Name::parse(spelling).unwrap() else { panic!("{spelling} is a DN") };
            // What is displayed is the same name, and reads as itself.
            assert_eq!(Dn::parse(&dn.to_string()).unwrap(), dn, "{spelling}");
        }
    }
    let mut keys: Vec<String> = table.iter().map(|spellings| key(spellings[0])).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), table.len(), "different names have different keys");
}

#[test]
fn a_ban_is_not_dodged_through_what_the_slash_form_does_not_tell() {
    // One value with a slash, or two parts: whoever is banned as one is banned as the other.
    assert_eq!(key("CN=a/CN=b,O=x"), key("CN=b,CN=a,O=x"));
    assert_eq!(key("CN=a\\+UID=b,O=x"), key("CN=a+UID=b,O=x"));
    assert_eq!(key("/O=x/CN =b"), key("/O=x/CN=b"));
    // Nor are other people taken with them.
    for (one, other) in [
        ("/O=x/CN=Zoe", "/O=x/CN=Zoë"),
        ("/O=x/CN=Zoe", "/O=x/CN=Zoe 2"),
        ("/O=x/CN=ab", "/O=x/CN=a b"),
        ("/O=x/CN=a", "/O=x/UID=a"),
        ("/O=x/CN=a/CN=a", "/O=x/CN=a"),
        ("/O=x/CN=a", "/CN=a"),
    ] {
        assert_ne!(key(one), key(other), "{one} {other}");
    }
}

#[test]
fn proxies_are_those_of_whoever_made_them() {
    let dn = |text: &str| Dn::parse(text).unwrap();
    for (proxy, person) in [
        ("/O=x/CN=Zoe/CN=proxy", "/O=x/CN=Zoe"),
        ("/O=x/CN=Zoe/CN=limited proxy", "/O=x/CN=Zoe"),
        ("/O=x/CN=Zoe/CN=Proxy/CN=LIMITED  proxy", "/O=x/CN=Zoe"),
        ("/O=x/CN=Zoe/CN=1234567890", "/O=x/CN=Zoe"),
        ("/O=x/CN=Zoe/CN=123/CN=456", "/O=x/CN=Zoe"),
        ("CN=proxy,CN=Zoe,O=x", "/O=x/CN=Zoe"),
        ("/O=x/CN=Zoe", "/O=x/CN=Zoe"),
        ("/O=x/CN=12/CN=Zoe", "/O=x/CN=12/CN=Zoe"),
        ("/O=x/OU=123", "/O=x/OU=123"),
        ("/CN=proxy", "/CN=proxy"),
    ] {
        assert_eq!(dn(proxy).without_proxy(), dn(person), "{proxy}");
    }
    // A person whose own DN ends in digits is found too.
    let keys = Name::parse("/O=x/CN=robot/CN=42/CN=777").unwrap().keys();
    assert_eq!(keys, [key("/O=x/CN=robot/CN=42/CN=777"), key("/O=x/CN=robot/CN=42"), key("/O=x/CN=robot")]);
    assert!(dn("/O=x/CN=a/CN=limited proxy").is_proxy() && !dn("/O=x/CN=a/CN=12").is_proxy());
}

#[test]
fn tokens_and_communities() {
    let table: &[(&[&str], &str)] = &[
        (
            &[
                "https://iam.example.org/ s-1",
                "https://iam.example.org s-1",
                "https://iam.example.org/,s-1",
                "HTTPS://IAM.example.org:443//  s-1",
            ],
            "token:https://iam.example.org s-1",
        ),
        (&["https://x.example:8443/Realm/a s b"], "token:https://x.example:8443/Realm/a s b"),
        (&["s-1", " s-1 "], "sub:s-1"),
        (&["S-1"], "sub:S-1"),
        (&["a=b"], "sub:a=b"),
        (&["zoe"], "sub:zoe"),
        (&["Abc@EGI.eu", "abc@egi.eu"], "id:abc@egi.eu"),
        (&["0000-0002-1825-009X", "https://orcid.org/0000-0002-1825-009x"], "id:0000-0002-1825-009x"),
    ];
    for (texts, expected) in table {
        for text in *texts {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.key(), *expected, "{text}");
            assert_eq!(Name::parse(&name.to_string()).unwrap(), name, "{text}");
        }
    }
    // However a list names somebody: one of the keys is that of the list.
    let keys = Name::token(Some("https://i.example/"), "Abc@egi.eu").unwrap().keys();
    for listed in ["https://i.example Abc@egi.eu", "abc@egi.eu"] {
        assert!(keys.contains(&key(listed)), "{listed}");
    }
    let keys = Name::community("zoe").unwrap().keys();
    assert!(keys.contains(&key("zoe")));
    assert!(!Name::token(None, "s-1").unwrap().keys().contains(&key("https://i.example s-1")));
}

#[test]
fn what_is_no_name_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "empty"),
        ("  ", "empty"),
        ("/", "no TYPE="),
        ("/foo/CN=x", "no TYPE="),
        ("/O=x/CN=", "CN has no value"),
        ("/O=x/CN= /OU=y", "CN has no value"),
        ("/O=x/=y", "no type before"),
        ("CN=,O=x", "CN has no value"),
        ("CN=\"x,O=y", "not closed"),
        ("CN=\"x\"y,O=z", "closing quote"),
        ("CN=#zz,O=x", "hexadecimal"),
        ("CN=#0203010203,O=x", "no string"),
        ("CN=\\FF,O=x", "not UTF-8"),
        ("CN=a\\0Ab,O=x", "control characters"),
        ("/O=x/CN=a\nb", "control character"),
        ("/O=x/CN=Zo\\xC3\\xAB\\x9f", "control character U+009F"),
        ("https://iam.example.org/", "nobody of it"),
        ("https:// x", "no token issuer"),
        ("a\u{202e}b", "invisible"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "looks like a token"),
        ("https://i.example eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "looks like a token"),
    ] {
        let wrong = Name::parse(text).unwrap_err();
        assert!(wrong.why.contains(why), "{text}: {wrong}");
        assert!(!wrong.next.is_empty() && !wrong.to_string().contains("eyJ"), "{wrong}");
    }
    assert!(Name::parse(&"x".repeat(256)).unwrap_err().why.contains("longer"));
    assert!(Name::parse(&format!("/CN={}", "x".repeat(1100))).unwrap_err().why.contains("longer"));
}
