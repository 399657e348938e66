//! Names and groups of people: what is read reads as itself again, and nothing takes long.
#![no_main]

use bailey::policy::glob::Glob;
use bailey::policy::group::{Group, GroupPattern};
use bailey::policy::name::{Dn, Name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(name) = Name::parse(text) {
        let key = name.key();
        assert_eq!(Name::parse(&name.to_string()).map(|name| name.key()), Ok(key.clone()));
        assert_eq!(name.keys().first(), Some(&key));
    }
    if let Ok(dn) = Dn::parse(text) {
        assert_eq!(Dn::parse(&dn.to_string()).as_ref(), Ok(&dn));
        let _ = dn.without_proxy();
        if let Ok(glob) = Glob::of_dn(text) {
            glob.matches_dn(&dn);
        }
    }
    if let Ok(group) = Group::parse(text) {
        let pattern = GroupPattern::parse(text).expect("a group is a pattern");
        assert!(pattern.matches(&group) || group.key().contains(['*', '[']) );
        assert_eq!(Group::parse(&group.to_string()).map(|group| group.key()), Ok(group.key()));
    }
    let _ = GroupPattern::parse(text);
});
