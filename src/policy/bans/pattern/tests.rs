use std::time::Instant;

use super::*;

fn pattern(text: &str) -> TokenPattern {
    TokenPattern::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"))
}

const OSG: &str = r"/^https\:\/\/scitokens\.org\/osg\-connect,/";

#[test]
fn patterns_of_the_documentation() {
    for (text, issuer, subject, fits) in [
        (OSG, "https://scitokens.org/osg-connect", "anybody", true),
        (OSG, "https://scitokens.org/osg-connect/", "anybody", true),
        (OSG, "https://scitokens.org/osg-connect2", "anybody", false),
        (OSG, "https://scitokens.org/", "osg-connect", false),
        (r"/^https:\/\/scitokens.org\/osg-connect,.*/", "https://scitokens.org/osg-connect", "x", true),
        (r"/^https:\/\/i.example\/,zoe$/", "https://i.example", "zoe", true),
        (r"/^https:\/\/i.example\/,zoe$/", "https://i.example/", "zoe2", false),
        (r"/^https:\/\/i.example,zoe$/", "https://i.example/", "zoe", true),
        // Without anchors it matches anywhere, as in HTCondor.
        (r"/i.example,zoe/", "https://i.example/", "zoe2", true),
        (r"/,ZOE$/i", "https://i.example", "zoe", true),
        (r"/,ZOE$/", "https://i.example", "zoe", false),
        (r"/(?i),ZOE$/", "https://i.example", "zoe", true),
        (r"/,(zoe|max)$/U", "https://i.example", "max", true),
        (r"/,[[:alpha:]_.-]+\d{2,3}$/", "https://i.example", "a-b_c.12", true),
        (r"/,[\w-]+x$/", "https://i.example", "a-bx", true),
        (r"/,[a-c]{2}$/", "https://i.example", "ad", false),
        (r"/^https:\/\/I.example,zoe$/", "https://i.example", "zoe", false),
        (r"/^https:\/\/i.example,zoe$/", "https://I.Example", "zoe", true),
        (r"/,a{b\_\<$/", "https://i.example", "a{b_<", true),
        (r"/,(?P<n>a)(?<m>b)(?:c)$/", "https://i.example", "abc", true),
        (r"/,\x41\x{42}\b/", "https://i.example", "AB", true),
        (r"/,[]x]$/", "https://i.example", "]", true),
        (r"/\A.*,a&&b~#$/", "https://i.example", "a&&b~#", true),
    ] {
        assert_eq!(pattern(text).matches(issuer, subject), fits, "{text} {issuer},{subject}");
    }
}

#[test]
fn what_pcre_alone_has_is_named() {
    for (text, why) in [
        (r"/^(?=a)b/", "look-ahead"),
        (r"/^(?!a)b/", "look-ahead"),
        (r"/(?<=a)b/", "look-behind"),
        (r"/(?<!a)b/", "look-behind"),
        (r"/(a)\1/", "back reference"),
        (r"/(?P<x>a)(?P=x)/", "back reference"),
        (r"/(?>a)b/", "atomic"),
        (r"/a++b/", "possessive"),
        (r"/a*+b/", "possessive"),
        (r"/a{2}+b/", "possessive"),
        (r"/a**/", "repeats a repetition"),
        (r"/a{2}{3}/", "repeats a repetition"),
        (r"/(*FAIL)a/", "verb"),
        (r"/(?R)a/", "kind of group"),
        (r"/(?#x)a/", "kind of group"),
        (r"/(?|a)/", "kind of group"),
        (r"/(?x)a/", "kind of group"),
        (r"/\Qa\E/", "escape"),
        (r"/\pLa/", "escape"),
        (r"/[\b]a/", "escape in a set"),
        (r"/a{,3}/", "two ways"),
        (r"/*a/", "repeats nothing"),
        (r"/a|*b/", "repeats nothing"),
        (r"/(+a)/", "repeats nothing"),
        (r"/^*a/", "repeats nothing"),
        (r"/{2}a/", "repeats nothing"),
        (r"/(a/", "not closed"),
        (r"/a)/", "not opened"),
        (r"/[a/", "not closed"),
        (r"/[b-a]x/", "cannot be used"),
        (r"/[[:nothing:]]x/", "cannot be used"),
        (r"/a{99999999999}/", "too large"),
        (r"/((a{1000}){1000}){1000}/", "cannot be used"),
        (r"/.*/", "everybody"),
        (r"/^https:\/\/.*,.*$/", "everybody"),
        (r"//", "everybody"),
        (r"/a", "no closing slash"),
        ("a", "between slashes"),
        ("/a/x", "neither i nor U"),
    ] {
        let wrong = TokenPattern::parse(text).unwrap_err();
        assert!(wrong.why.contains(why), "{text}: {wrong}");
        assert!(!wrong.next.is_empty());
    }
    let nested = format!("/{}a{}/", "(".repeat(200), ")".repeat(200));
    assert!(TokenPattern::parse(&nested).unwrap_err().why.contains("cannot be used"));
    assert!(
        TokenPattern::parse(&format!("/{}/", "a".repeat(LONGEST + 1))).unwrap_err().why.contains("longer")
    );
}

#[test]
fn literals_for_an_index() {
    let exact = |text: &str| Literal::Exact(Name::parse(text).unwrap().key());
    let contains = |text: &str| Literal::Contains(text.to_owned());
    for (text, literal) in [
        (r"/^https:\/\/i\.example\/,zoe$/", exact("https://i.example zoe")),
        (r"/^https:\/\/i\.example,zoe$/", exact("https://i.example zoe")),
        (r"/^https:\/\/i\.example,zoe$/i", contains("https://i.example,zoe")),
        (r"/^https:\/\/i\.example,zoe/", contains("https://i.example,zoe")),
        (r"/^https:\/\/scitokens.org\/osg-connect,/", contains("https://scitokens")),
        (r"/^https:\/\/a.example.org\/realms\/x,Zoe$/", contains("org/realms/x,zoe")),
        (r"/abc*defg/", contains("defg")),
        (r"/abcd+ef/", contains("abcd")),
        (r"/abcd?e/", contains("abc")),
        (r"/ab(cdefgh)?ij(kl)/", contains("ab")),
        (r"/abc|def/", Literal::None),
        (r"/(abc|def)/", Literal::None),
        (r"/ab(c|d)/", contains("ab")),
        (r"/[abc],x?/", contains(",")),
    ] {
        assert_eq!(pattern(text).literal(), literal, "{text}");
    }
}

/// What the scanner says of a pattern holds for everything that the engine matches.
#[test]
fn literals_never_lose_a_match() {
    let pieces =
        ["a", "b+", "c?", ".", "(ab)", "(?:a|b)", "^", "$", "[ab]", "x*", "a{2}", "|", "\\.", "b{0,1}", ","];
    let texts = ["ab", "aabb", "a,b", "abab", "xxab", "b", "", "aab.b", "a.b,c", "cab,ab", "bb,aa"];
    let mut state = 1_u64;
    let mut matched = 0;
    for _ in 0..20_000 {
        let mut source = String::new();
        for _ in 0..=state % 5 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            source.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        let Ok(expression) = Expression::new(&source, false) else { continue };
        for text in texts.iter().filter(|text| expression.matches(text)) {
            matched += 1;
            assert!(text.contains(&expression.run), "{source} matches {text} without {}", expression.run);
            assert!(expression.exact.as_deref().is_none_or(|exact| exact == *text), "{source} {text}");
        }
    }
    assert!(matched > 1000, "{matched}");
}

#[test]
fn certificates_are_matched_with_and_without_groups() {
    let dn = Dn::parse("/DC=org/CN=Zoe/CN=proxy").unwrap();
    for (text, fits) in [
        (r"/^\/DC=org\/CN=Zoe$/", true),
        (r"/.*,\/GLOW\/Role=htpc.*/", true),
        (r"/^\/DC=org\/CN=Zoe,\/GLOW/", true),
        (r"/^\/DC=org\/CN=Max$/", false),
    ] {
        let pattern = CertificatePattern::parse(text).unwrap();
        assert_eq!(pattern.matches(&dn, &["/GLOW/Role=htpc", "/GLOW"]), fits, "{text}");
    }
    assert!(CertificatePattern::parse("/.*/").unwrap_err().why.contains("everybody"));
}

#[test]
fn a_pattern_reads_back_as_it_is_displayed() {
    for text in [OSG, r"/a\\b/", r"/a\/b\\\\c/iU", r#"/"x"\.,/i"#] {
        let one = pattern(text);
        assert_eq!(pattern(&one.to_string()), one, "{text} {one}");
    }
}

#[test]
fn no_pattern_takes_long() {
    let start = Instant::now();
    let bomb = pattern(r"/^(a+)+(a+)+(a+)+(a|aa)+b$/");
    assert!(!bomb.matches("https://i.example", &"a".repeat(255)));
    assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
}
