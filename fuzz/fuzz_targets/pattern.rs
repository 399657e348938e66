//! HTCondor's expressions: what is accepted can be matched, and what the index is told of them is true.
#![no_main]

use bailey::policy::bans::{CertificatePattern, Literal, TokenPattern};
use bailey::policy::name::Name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (source, subject) = text.split_once('\n').unwrap_or((text, "zoe"));
    let subject: String = subject.chars().filter(|c| (' '..='~').contains(c)).take(255).collect();
    let issuer = "https://iam.example.org/";
    if let Ok(pattern) = TokenPattern::new(source, false) {
        assert_eq!(TokenPattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern));
        if pattern.matches(issuer, &subject) {
            match pattern.literal() {
                Literal::Exact(key) => {
                    assert_eq!(Name::token(Some(issuer), &subject).map(|name| name.key()), Ok(key));
                }
                Literal::Contains(run) => assert!(
                    TokenPattern::texts(issuer, &subject).iter().any(|text| text.to_ascii_lowercase().contains(&run))
                ),
                Literal::None => {}
            }
        }
    }
    let _ = CertificatePattern::new(source, true);
});
