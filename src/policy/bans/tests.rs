use super::*;

fn good(text: &str, format: Format) -> List {
    parse(text.as_bytes(), format).unwrap_or_else(|faults| panic!("{text}\n{}", faults[0]))
}

fn keys(text: &str, format: Format) -> Vec<String> {
    good(text, format).bans.iter().map(|ban| ban.whom.key()).collect()
}

fn time(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

/// Every entry: the list, the fault's line and column, a part of what it says.
fn bad(format: Format, table: &[(&str, u32, u32, &str)]) {
    for (text, line, column, says) in table {
        let faults = match parse(text.as_bytes(), format) {
            Ok(list) => panic!("{text}\nwas read as {list:?}"),
            Err(faults) => faults,
        };
        let fault = &faults[0];
        assert!(fault.to_string().contains(says), "{text}\n{fault}");
        assert_eq!((fault.line, fault.column), (*line, *column), "{text}\n{fault}");
        assert!(!fault.next.is_empty() && !fault.to_string().contains('\n'), "{fault}");
    }
}

#[test]
fn a_files_name_says_its_format() {
    for (name, format) in [
        ("a.toml", Some(Format::Ours)),
        ("ban_users.db", Some(Format::Lcas)),
        ("x.lcas", Some(Format::Lcas)),
        ("x.dn", Some(Format::DnLines)),
        ("x.list", Some(Format::DnLines)),
        ("x.txt", Some(Format::DnLines)),
        ("90-ban.conf", Some(Format::CondorMap)),
        ("x.map", Some(Format::CondorMap)),
        ("x.mapfile", Some(Format::CondorMap)),
        ("x.argus", Some(Format::Argus)),
        ("x.spl", Some(Format::Argus)),
        ("x.policy", Some(Format::Argus)),
        ("x.toml.rpmsave", None),
        ("x.toml~", None),
        ("README", None),
        ("toml", None),
    ] {
        assert_eq!(Format::of_name(name), format, "{name}");
    }
}

#[test]
fn our_own_format() {
    let text = r#"
# incident 17
[[ban]]
user = "/DC=org/DC=example/CN=Some One"
reason = "mines coins"
ticket = "RT#17"
from = 2026-03-01T12:00:00+01:00
until = "2026-03-31"
action = "freeze"
grace = "30s"

[[ban]]
issuer = "https://iam.example.org/"
subject = "s-1"
reason = "r"
until = 2026-03-31

[[ban]]
all = [{ vo = "cms" }, { all_of_issuer = "/C=IT/O=INFN/CN=INFN CA" }]
reason = "r"
"#;
    let list = good(text, Format::Ours);
    let ban = &list.bans[0];
    assert_eq!(ban.whom.key(), Name::parse("CN=Some One,DC=example,DC=org").unwrap().key());
    assert_eq!((ban.reason.as_deref(), ban.ticket.as_deref()), (Some("mines coins"), Some("RT#17")));
    assert_eq!(
        (ban.from, ban.until),
        (Some(time("2026-03-01T11:00:00Z")), Some(time("2026-04-01T00:00:00Z")))
    );
    assert_eq!((ban.measure, ban.grace), (Some(Measure::Freeze), Some(Duration::from_secs(30))));
    assert_eq!(ban.line, 3);
    for (now, holds) in [
        ("2026-03-01T10:59:59Z", false),
        ("2026-03-01T11:00:00Z", true),
        ("2026-03-31T23:59:59Z", true),
        ("2026-04-01T00:00:00Z", false),
    ] {
        assert_eq!(ban.holds_at(time(now)), holds, "{now}");
    }
    assert_eq!(list.bans[1].until, ban.until);
    assert_eq!(list.bans[1].line, 12);
    assert_eq!(list.bans[2].whom.to_string(), "the VO cms and the CA /C=IT/O=INFN/CN=INFN CA");
    assert_eq!(list.remarks, []);
    assert_eq!(list.remarks_at(time("2026-03-31T12:00:00Z")), []);
    let over = list.remarks_at(time("2026-04-01T00:00:00Z"));
    assert_eq!(over.iter().map(|remark| remark.line).collect::<Vec<_>>(), [3, 12]);
    assert!(
        over[0].to_string().starts_with("line 3: the ban on /DC=org/DC=example/CN=Some One ended on 2026")
    );

    let digest = "a".repeat(64);
    for (what, key) in [
        (r#"user = "zoe""#, "sub:zoe".to_owned()),
        (r#"subject = "zoe@egi.eu""#, "sub:zoe@egi.eu".to_owned()),
        (r#"community = "Zoe""#, "id:zoe".to_owned()),
        (r#"person = "p1""#, "person:p1".to_owned()),
        (r#"vo = "ATLAS""#, "vo:atlas".to_owned()),
        (r#"group = "/cms/*""#, "group:/cms/*".to_owned()),
        (r#"primary_group = "/cms/Role=x""#, "primary-group:/cms/role=x".to_owned()),
        (r#"all_of_issuer = "https://I.example/""#, "issuer:https://i.example".to_owned()),
        (r#"user_pattern = "/DC=org/*""#, "dn-pattern:/dc=org/*".to_owned()),
        (r"token_pattern = '/^https:\/\/i,/'", "token-pattern:/^https://i,/".to_owned()),
        (r#"certificate_pattern = "/CN=x/i""#, "certificate-pattern:/CN=x/i".to_owned()),
        (r#"pilot = "p-1""#, "pilot:p-1".to_owned()),
        ("pilot_uid = 1000", "pilot-uid:1000".to_owned()),
        (&format!("image = \"sha256:{}\"", "A".repeat(64)), format!("image:sha256:{digest}")),
    ] {
        assert_eq!(keys(&format!("[[ban]]\n{what}\nreason = \"r\"\n"), Format::Ours), [key], "{what}");
    }
}

#[test]
fn what_is_wrong_in_our_own_format() {
    bad(
        Format::Ours,
        &[
            ("[[ban]]\nuser = \"x\"\n", 1, 1, "no reason"),
            ("[[ban]]\nreason = \"r\"\n", 1, 1, "names nobody"),
            (
                "[[ban]]\nuser = \"x\"\nvo = \"y\"\nreason = \"r\"\n",
                1,
                1,
                "names user and vo; write a [[ban]] for each",
            ),
            ("[[ban]]\nuser = \"x\"\nresaon = \"r\"\n", 3, 1, "did you mean 'reason'?"),
            ("[[bann]]\nuser = \"x\"\n", 1, 3, "did you mean 'ban'?"),
            ("[[ban]]\nuser = x\n", 2, 8, "must be quoted"),
            ("[[ban]]\nuser = \"x\nreason = \"r\"\n", 2, 10, ""),
            ("[[ban]]\n  user = \"/CN=\"\nreason = \"r\"\n", 2, 10, "CN has no value"),
            ("[[ban]]\nuser = 1\nreason = \"r\"\n", 2, 8, "string"),
            ("[[ban]]\nissuer = \"https://i.example\"\nreason = \"r\"\n", 2, 10, "all_of_issuer"),
            ("[[ban]]\nissuer = \"i\"\nsubject = \"x\"\nreason = \"r\"\n", 2, 10, "no token issuer"),
            ("[[ban]]\nvo = \"a b\"\nreason = \"r\"\n", 2, 6, "no VO's name"),
            ("[[ban]]\ngroup = \"/*\"\nreason = \"r\"\n", 2, 9, "everybody"),
            ("[[ban]]\nuser_pattern = \"*\"\nreason = \"r\"\n", 2, 16, "everybody"),
            ("[[ban]]\ntoken_pattern = \"/.*/\"\nreason = \"r\"\n", 2, 17, "everybody"),
            ("[[ban]]\nimage = \"sha256:12\"\nreason = \"r\"\n", 2, 9, "no digest"),
            ("[[ban]]\npilot_uid = -1\nreason = \"r\"\n", 2, 13, "no uid"),
            ("[[ban]]\nuser = \"x\"\nreason = \" \"\n", 3, 10, "is empty"),
            ("[[ban]]\nuser = \"x\"\nreason = \"r\"\naction = \"hold\"\n", 4, 10, "\"kill\" or \"freeze\""),
            ("[[ban]]\nuser = \"x\"\nreason = \"r\"\ngrace = \"soon\"\n", 4, 9, "time span"),
            ("[[ban]]\nuser = \"x\"\nreason = \"r\"\nuntil = \"2026-02-30\"\n", 4, 9, "no time"),
            ("[[ban]]\nuser = \"x\"\nreason = \"r\"\nuntil = \"2026-02-20 12:00\"\n", 4, 9, "no zone"),
            ("[[ban]]\nuser = \"x\"\nreason = \"r\"\nuntil = 2026-02-20T12:00:00\n", 4, 9, "no zone"),
            (
                "[[ban]]\nuser = \"x\"\nreason = \"r\"\nfrom = \"2026-02-20\"\nuntil = \"2026-02-19\"\n",
                5,
                9,
                "before it begins",
            ),
            ("[[ban]]\nall = [{ vo = \"a\" }]\nreason = \"r\"\n", 2, 7, "needs from 2"),
            (
                "[[ban]]\nall = [{ vo = \"a\" }, { reason = \"b\" }]\nreason = \"r\"\n",
                2,
                22,
                "only says whom",
            ),
            (
                "[[ban]]\nuser = \"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln\"\nreason = \"r\"\n",
                2,
                8,
                "looks like a token",
            ),
            ("ban = 1\n", 1, 7, ""),
        ],
    );
    // Every broken ban is named, not the first alone.
    let text = "[[ban]]\nvo = \"a b\"\nreason = \"r\"\n".repeat(30);
    let faults = parse(text.as_bytes(), Format::Ours).unwrap_err();
    assert_eq!(
        faults.iter().map(|fault| fault.line).collect::<Vec<_>>(),
        (0..20).map(|n| 3 * n + 2).collect::<Vec<_>>()
    );
}

#[test]
fn lcas_and_lcmaps() {
    let text = "\u{feff}# banned\r\n\"/DC=org/CN=Some One\"\r\n\t\"/O=x/CN=a\" .pool \r\n\r\n\"/dteam/Role=NULL/Capability=NULL\"\r\n\
                \"/O=bad*\"\r\n\"/cms/*\"\r\n\"CN=b,O=x\"\r\n/O=x/CN=c u\r\n\"/O=x/CN=\\*.d\"\r\n";
    assert_eq!(
        keys(text, Format::Lcas),
        [
            "dn:cn=some one/dc=org",
            "dn:cn=a/o=x",
            "group:/dteam/role=null",
            "dn-pattern:/o=bad*",
            "group:/cms/*",
            "dn:cn=b/o=x",
            "dn:cn=c/o=x",
            "dn:cn=*.d/o=x",
        ]
    );
    assert_eq!(good(text, Format::Lcas).bans[1].line, 3);
    bad(Format::Lcas, &[("\"/DC=org/CN=a\"\n\"/DC=org/CN=Jo", 2, 1, "cut off")]);
    bad(
        Format::Lcas,
        &[
            ("\"/*\"\n", 1, 1, "everybody"),
            ("\"*\"\n", 1, 1, "everybody"),
            ("# c\n\"/?*/*\"\n", 2, 1, "everybody"),
            ("<html>\n", 1, 1, "double quotes"),
            ("jdoe\n", 1, 1, "double quotes"),
            ("/DC=org/CN=Some One jdoe\n", 1, 17, "no list of accounts"),
        ],
    );
}

#[test]
fn one_dn_a_line() {
    let text = "# list\n/DC=org/CN=Some One\n  CN=Other One,DC=org  \n\"/DC=org/CN=Third\"\n/DC=org/CN=*.example.org\n";
    assert_eq!(
        keys(text, Format::DnLines),
        [
            "dn:cn=some one/dc=org",
            "dn:cn=other one/dc=org",
            "dn:cn=third/dc=org",
            "dn:cn=*.example.org/dc=org"
        ]
    );
    bad(
        Format::DnLines,
        &[
            ("/DC=org/CN=a\n/DC", 2, 1, "no TYPE="),
            ("/vo/group\n", 1, 1, "no TYPE="),
            ("zoe\n", 1, 1, "is no DN"),
            ("404 Not Found\n", 1, 1, "is no DN"),
            ("\"/DC=org/CN=a\" u\n", 1, 1, "nothing behind it"),
            ("/DC=org/CN=\n", 1, 1, "CN has no value"),
        ],
    );
    // A line that was cut off can still be a DN; the missing end of the line is all there is to see.
    let list = good("/DC=org/CN=a\n/DC=org/CN=Jo", Format::DnLines);
    assert_eq!(list.remarks.len(), 1);
    assert!(list.remarks[0].to_string().starts_with("line 2: the last line has no end"));
}

#[test]
fn htcondor_map_files() {
    let text = r#"# You easily ban users by mapping them to the banned.htcondor.org domain.
SCITOKENS /^https\:\/\/scitokens\.org\/osg\-connect,/ osgpilot@banned.htcondor.org
SCITOKENS "https://iam.example.org/,s-1" x@banned.htcondor.org
scitokens https://iam.example.org/,s-2 x@Banned.HTCondor.org
GSI "/DC=org/CN=Some One" x@banned.htcondor.org
SSL "/DC=org/CN=Some One,/cms/Role=pilot,/cms" x@banned.htcondor.org
GSI /^\/DC=org\/CN=Other/i x@banned.htcondor.org
SCITOKENS /^https:\/\/scitokens.org\/osg-connect,.*/ osg
GSI /.*,\/GLOW\/Role=htpc.*/ glow
GSI /(?=not ours to judge)/ glow
CLAIMTOBE /.*/ anonymous@claimtobe
FS /^(root|condor)$/ \1@daemon.htcondor.org
KERBEROS zoe@EXAMPLE.ORG x@banned.htcondor.org
"#;
    let list = good(text, Format::CondorMap);
    let keys: Vec<String> = list.bans.iter().map(|ban| ban.whom.key()).collect();
    assert_eq!(
        keys,
        [
            r"token-pattern:/^https\://scitokens\.org/osg\-connect,/",
            "token:https://iam.example.org s-1",
            "token:https://iam.example.org s-2",
            "dn:cn=some one/dc=org",
            "all:dn:cn=some one/dc=org\ngroup:/cms\ngroup:/cms/role=pilot",
            "certificate-pattern:/^/DC=org/CN=Other/i",
        ]
    );
    assert_eq!(list.remarks.len(), 1);
    assert!(list.remarks[0].to_string().starts_with("line 13: a ban for the method KERBEROS"));
    bad(
        Format::CondorMap,
        &[
            ("SCITOKENS\n", 1, 0, "no PRINCIPAL"),
            ("SCITOKENS /x/\n", 1, 0, "no NAME"),
            ("SCITOKENS /^https:\\/\\/x\n", 1, 11, "cut off"),
            ("SCITOKENS \"x y@banned.htcondor.org\n", 1, 11, "cut off"),
            ("SCITOKENS /(?=x)a/ x@banned.htcondor.org\n", 1, 11, "look-ahead"),
            ("SCITOKENS /(a)\\1/ x@banned.htcondor.org\n", 1, 11, "back reference"),
            ("SCITOKENS /.*/ x@banned.htcondor.org\n", 1, 11, "everybody"),
            ("SCITOKENS x x@banned.htcondor.org\n", 1, 11, "no comma"),
            // The slashes are not escaped: HTCondor takes what follows for the name, and nobody is banned.
            ("SCITOKENS /^https://i.example/,x$/ x@banned.htcondor.org\n", 1, 20, "this is no ban although"),
            ("SCITOKENS /x,/ @banned.htcondor.org\n", 1, 16, "this is no ban although"),
            ("SCITOKENS /x,/ x@banned.htcondor.org.\n", 1, 16, "this is no ban although"),
            ("@include /etc/condor-ce/mapfiles.d/90-ban.conf\n", 1, 1, "not followed"),
            ("GSI jdoe x@banned.htcondor.org\n", 1, 5, "no DN"),
            ("\"/DC=org/CN=Some One\" jdoe\n", 1, 1, "no METHOD"),
        ],
    );
}

#[test]
fn argus_policies() {
    let text = r#"
default (local):

resource ".*" {
    description "bans # not a comment"
    obligation "http://glite.org/xacml/obligation/local-environment-map" { a = 'b' }
    action ".*" {
        # a comment
        rule deny { subject = "CN=Alberto Forti,L=CNAF,OU=Personal Certificate,O=INFN,C=IT" }
        rule deny { fqan = /dteam/test }
        rule deny { fqan=/dteam/Role=VO-Admin }
        rule deny { vo = "atlas" }
        rule deny { vo = cms subject-issuer = "CN=INFN CA,O=INFN,C=IT" }
        rule deny { pfqan = "/atlas/Role=pilot" }
        rule deny { subject = "CN=Doe\, John,O=x" }
        rule deny { subject = '/O=x/CN=Slash Form' }
    }
}
resource "http://cnaf.infn.it/wn" {
    private action 'http://glite.org/xacml/action/execute' {
        rule permit { vo = "dteam" anything = "x" }
        rule deny { vo = "lhcb" }
    }
}
"#;
    let list = good(text, Format::Argus);
    let keys: Vec<String> = list.bans.iter().map(|ban| ban.whom.key()).collect();
    assert_eq!(
        keys,
        [
            "dn:c=it/cn=alberto forti/l=cnaf/o=infn/ou=personal certificate",
            "group:/dteam/test",
            "group:/dteam/role=vo-admin",
            "vo:atlas",
            "all:ca-dn:c=it/cn=infn ca/o=infn\nvo:cms",
            "primary-group:/atlas/role=pilot",
            "dn:cn=doe, john/o=x",
            "dn:cn=slash form/o=x",
            "vo:lhcb",
        ]
    );
    assert_eq!(list.bans[0].line, 9);
    let remarks: Vec<String> = list.remarks.iter().map(ToString::to_string).collect();
    assert!(remarks[0].starts_with("line 21: a permit rule is passed over"), "{remarks:?}");
    assert!(
        remarks[1].starts_with("line 22: the rule is for the resource http://cnaf.infn.it/wn"),
        "{remarks:?}"
    );
    assert_eq!(remarks.len(), 2);
    bad(
        Format::Argus,
        &[
            (
                "resource \".*\" {\n action \".*\" {\n  rule deny { vo = \"a b\" }\n } }\n",
                3,
                20,
                "no VO's name",
            ),
            (
                "resource \".*\" {\n action \".*\" {\n  rule deny { vo = \"a\" }\n",
                3,
                25,
                "the end of the file",
            ),
            ("resource \".*\" {\n action \".*\" {\n  rule deny { vo = \"a\n", 3, 20, "not closed"),
            ("resource \".*\" {\n rule deny { vo = \"a\" } }\n", 2, 2, "found 'rule'"),
            ("rule deny { vo = \"a\" }\n", 1, 1, "expected resource"),
            ("<html></html>\n", 1, 1, "expected resource"),
            ("resource \".*\" { action \".*\" { rule forbid { vo = a } } }\n", 1, 36, "deny or permit"),
            ("resource \".*\" { action \".*\" { rule deny { } } }\n", 1, 31, "names nobody"),
            ("resource \".*\" { action \".*\" { rule deny { dn = \"x\" } } }\n", 1, 48, "not known"),
            ("resource \".*\" { action \".*\" { rule deny { fqan = \"/*\" } } }\n", 1, 50, "everybody"),
            ("resource \".*\" { action \".*\" { rule deny { vo \"x\" } } }\n", 1, 46, "expected ="),
            ("resource \".*\" { action \".*\" { rule deny { vo = = } } }\n", 1, 48, "expected a value"),
            ("resource \".*\" { } }\n", 1, 19, "expected resource"),
        ],
    );
}

#[test]
fn every_format_refuses_what_is_no_list() {
    for format in [Format::Ours, Format::Lcas, Format::DnLines, Format::CondorMap, Format::Argus] {
        for (bytes, says) in [
            (&b""[..], "it is empty"),
            (b"\n\n", "it is empty"),
            (b"# a\n\"/O=x/CN=Zo\xeb\"\n", "line 2, column 12"),
            (b"# a\n\0\n", "line 2, column 1"),
            (b"\xff\xfe#\0", "UTF-16"),
        ] {
            let fault = parse(bytes, format).unwrap_err().remove(0).to_string();
            assert!(fault.contains(says), "{format:?}: {fault}");
        }
        let long = format!("# {}\n", "a".repeat(10 << 20));
        assert!(parse(long.as_bytes(), format).unwrap_err()[0].why.contains("more than 8192"), "{format:?}");
        // Nobody is banned, and the file says so.
        assert_eq!(parse(b"\xef\xbb\xbf# nobody\r\n", format).unwrap(), List::default(), "{format:?}");
    }
}

#[test]
fn duplicates_and_contradictions_are_told() {
    let list = good("\"/O=x/CN=Zoë\"\n\"/O=x/CN=a\"\n\"CN=zoë,O=x\"\n\"/O=x/CN=a/CN=proxy\"\n", Format::Lcas);
    let remarks: Vec<String> = list.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(
        remarks,
        [
            "line 3: /O=x/CN=zoë is banned in line 1 too",
            "line 4: /O=x/CN=a/CN=proxy names a proxy, so only that is banned; name /O=x/CN=a to ban the person",
        ]
    );
    let text =
        "[[ban]]\nvo = \"a\"\nreason = \"r\"\n[[ban]]\nvo = \"A\"\nreason = \"r\"\naction = \"kill\"\n";
    let list = good(text, Format::Ours);
    assert!(
        list.remarks[0].to_string().starts_with("line 4: the VO A is banned in line 1 too, with other times")
    );
    let many = good(&"\"/O=x\"\n".repeat(1000), Format::Lcas);
    assert_eq!((many.bans.len(), many.remarks.len()), (1000, MOST_REMARKS));
}
