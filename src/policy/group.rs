//! Groups: VOMS FQANs, `wlcg.groups` and IVOA group ids, and the patterns that rules and bans write.
//!
//! 1. `/vo/group`, `/vo/group/Role=NULL` and `/vo/group/Role=NULL/Capability=NULL` are one group. Capabilities, which VOMS gave up,
//!    do not count. Case does not count: no two groups of a VO differ in it alone.
//! 2. A pattern without a role matches the group with any role, so a ban on a group cannot be left by taking a role. Who means
//!    the group without a role writes `/Role=NULL`.
//! 3. `/cms/*` is that group and all below it, as it is in a groupmapfile. `/cms` is that group alone.
#![forbid(unsafe_code)]

use std::fmt;

use super::glob::{Glob, has_wildcards};
use super::lines::{Wrong, shorten};

/// The longest group.
const LONGEST: usize = 255;

/// One group that somebody is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Group {
    source: String,
    path: String,
    role: Option<String>,
}

impl Group {
    /// Reads `/vo/group/Role=x/Capability=NULL`, `/vo/group` or `ivo://authority/path?group`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        let wrong = || {
            Wrong::new(
                format!("'{}' is no group", shorten(text)),
                "write /vo/group, /vo/group/Role=name, or ivo://authority/service?group",
            )
        };
        if text.len() > LONGEST || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let (path, role) = split(text).ok_or_else(wrong)?;
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let fits = match path.strip_prefix("ivo://") {
            Some(rest) => {
                let allowed = |text: &str| {
                    let fits =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
                    !text.is_empty() && text.bytes().all(fits)
                };
                rest.split_once('?').is_some_and(|(place, group)| {
                    let place =
                        place.split_once('/').is_some_and(|(host, path)| allowed(host) && allowed(path));
                    place && allowed(group)
                })
            }
            None => path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(word)),
        };
        let role_fits = role.as_deref().is_none_or(word);
        if !fits || !role_fits {
            return Err(wrong());
        }
        Ok(Self { source: text.to_owned(), path, role: role.filter(|role| role != "null") })
    }

    /// Equal for every spelling of one group.
    pub fn key(&self) -> String {
        match &self.role {
            Some(role) => format!("{}/role={role}", self.path),
            None => self.path.clone(),
        }
    }

    /// The VO of a VOMS or WLCG group, in lower case: its first part.
    pub fn vo(&self) -> Option<&str> {
        self.path.strip_prefix('/').and_then(|rest| rest.split('/').next())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// A pattern of groups.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct GroupPattern {
    source: String,
    path: Glob,
    /// The path of `/cms/*` without its end, which matches too.
    above: Option<Glob>,
    role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
enum Role {
    Any,
    None,
    Like(Glob),
}

impl GroupPattern {
    /// Reads a group, or one with wildcards as fnmatch(3) has them in its path or role.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let text = text.trim();
        // The question mark of an IVOA id is one.
        let escaped;
        let ivo = text.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("ivo://"));
        let source = text;
        let text = if ivo {
            escaped = text.replacen('?', "\\?", 1);
            &escaped
        } else {
            text
        };
        if !has_wildcards(text) {
            Group::parse(source)?;
        }
        let wrong = || {
            Wrong::new(
                format!("'{}' is no pattern of groups", shorten(text)),
                "write /vo/group, /vo/group/*, or either with /Role=name behind it",
            )
        };
        if text.len() > LONGEST
            || text.chars().any(char::is_whitespace)
            || !text.starts_with(['/', 'i', 'I', '*'])
        {
            return Err(wrong());
        }
        let (path, role) = split(text).ok_or_else(wrong)?;
        let role = match role.as_deref() {
            None | Some("*") => Role::Any,
            Some("null") => Role::None,
            Some(role) => Role::Like(Glob::parse(role)?),
        };
        let above = path.strip_suffix("/*").filter(|above| !above.is_empty());
        Ok(Self {
            source: source.to_owned(),
            above: above.map(Glob::parse).transpose()?,
            path: Glob::parse(&path)?,
            role,
        })
    }

    /// Whether somebody in this group is meant.
    pub fn matches(&self, group: &Group) -> bool {
        let path = self.path.matches(&group.path)
            || self.above.as_ref().is_some_and(|above| above.matches(&group.path));
        path && match (&self.role, &group.role) {
            (Role::Any, _) | (Role::None, None) => true,
            (Role::Like(glob), Some(role)) => glob.matches(role),
            (Role::None, Some(_)) | (Role::Like(_), None) => false,
        }
    }

    /// The path of the one group that it can match, for an index; `None` for a pattern.
    pub fn exact_path(&self) -> Option<String> {
        self.path.plain()
    }

    /// Whether it matches every group.
    pub fn is_everything(&self) -> bool {
        self.path.is_everything() && self.role == Role::Any
    }

    /// Equal for every spelling of one pattern.
    pub fn key(&self) -> String {
        match &self.role {
            Role::Any => self.path.key(),
            Role::None => format!("{}/role=null", self.path.key()),
            Role::Like(role) => format!("{}/role={}", self.path.key(), role.key()),
        }
    }
}

impl fmt::Display for GroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Group {
    /// The path, in the form in which groups are compared.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Path and role, both in lower case; `None` when something else stands behind them.
fn split(text: &str) -> Option<(String, Option<String>)> {
    let text = text.to_lowercase();
    if text.starts_with("ivo://") {
        return Some((text, None));
    }
    let (text, capability) = match text.split_once("/capability=") {
        Some((text, capability)) => (text, Some(capability)),
        None => (text.as_str(), None),
    };
    let (path, role) = match text.split_once("/role=") {
        Some((path, role)) => (path, Some(role)),
        None => (text, None),
    };
    let word = |word: &str| !word.is_empty() && !word.contains(['/', '=']);
    let fits =
        role.is_none_or(word) && capability.is_none_or(word) && !path.is_empty() && !path.contains('=');
    fits.then(|| (path.to_owned(), role.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        Group::parse(text).unwrap().key()
    }

    #[test]
    fn spellings_of_one_group() {
        for (texts, expected) in [
            (
                &[
                    "/cms",
                    "/cms/Role=NULL",
                    "/cms/Role=NULL/Capability=NULL",
                    "/cms/Capability=NULL",
                    "/CMS",
                    " /cms ",
                ][..],
                "/cms",
            ),
            (&["/cms/de/Role=pilot", "/cms/de/role=Pilot/Capability=NULL"], "/cms/de/role=pilot"),
            (&["ivo://Example.org/gms?Team", "IVO://example.org/GMS?team"], "ivo://example.org/gms?team"),
            (&["/vo.example.org/a_b-c.d"], "/vo.example.org/a_b-c.d"),
        ] {
            for text in texts {
                assert_eq!(key(text), expected, "{text}");
            }
        }
        assert_eq!(Group::parse("/Cms/x").unwrap().vo(), Some("cms"));
        assert_eq!(Group::parse("ivo://a/b?c").unwrap().vo(), None);
        assert_ne!(key("/cms/Role=a"), key("/cms/Role=b"));
    }

    #[test]
    fn what_is_no_group_is_refused() {
        for text in [
            "",
            "/",
            "cms",
            "//cms",
            "/cms/",
            "/cms/Role=",
            "/cms/Role=a/b",
            "/cms/Role=a/Role=b",
            "/Role=a",
            "/cms/x=y",
            "/cms/Capability=",
            "/c ms",
            "/c\nms",
            "/-cms",
            "/cms/*",
            "ivo://a",
            "ivo://a/b",
            "ivo:///b?c",
            "ivo://a/b?",
            "/cms/Capability=a/Role=b",
        ] {
            assert!(Group::parse(text).is_err(), "{text:?}");
        }
        assert!(Group::parse(&format!("/{}", "a".repeat(255))).is_err());
    }

    #[test]
    fn patterns() {
        for (pattern, group, fits) in [
            ("/cms", "/cms", true),
            ("/cms", "/cms/Role=pilot", true),
            ("/cms", "/cms/de", false),
            ("/cms/Role=NULL", "/cms", true),
            ("/cms/Role=NULL", "/cms/Role=pilot", false),
            ("/cms/Role=pilot", "/cms/Role=pilot/Capability=NULL", true),
            ("/cms/Role=pilot", "/cms", false),
            ("/cms/Role=p*", "/cms/Role=pilot", true),
            ("/cms/Role=*", "/cms", true),
            ("/cms/*", "/cms", true),
            ("/cms/*", "/cms/de/aachen", true),
            ("/cms/*", "/cms/Role=pilot", true),
            ("/cms/*", "/cmsx", false),
            ("/cms/*/Role=pilot", "/cms/de/Role=pilot", true),
            ("/cms/*/Role=pilot", "/cms/Role=pilot", true),
            ("/cms/*/Role=pilot", "/cms/de", false),
            ("/cms*", "/cmsx/y", true),
            ("/*/Role=production", "/atlas/Role=production", true),
            ("/*", "/atlas", true),
            ("ivo://example.org/gms?team", "ivo://EXAMPLE.org/gms?team", true),
            ("ivo://example.org/gms?*", "ivo://example.org/gms?x", true),
        ] {
            let group_read = Group::parse(group).unwrap();
            assert_eq!(GroupPattern::parse(pattern).unwrap().matches(&group_read), fits, "{pattern} {group}");
        }
        for text in ["", "cms", "/cms/", "/cms *", "DC=org*", "/cms/*/Role=", "/cms/[[:x:]]", "/DC=org/*"] {
            assert!(GroupPattern::parse(text).is_err(), "{text}");
        }
        let path = |text: &str| GroupPattern::parse(text).unwrap().exact_path();
        assert_eq!(path("/CMS/Role=x").as_deref(), Some("/cms"));
        assert_eq!(path("/cms/*"), None);
        assert_eq!(path("ivo://a/b?C").as_deref(), Some("ivo://a/b?c"));
        assert!(!GroupPattern::parse("ivo://a/b?c").unwrap().matches(&Group::parse("ivo://a/bx?c").unwrap()));
        for (text, everything) in [("/*", true), ("*", true), ("/*/Role=a", false), ("/cms/*", false)] {
            assert_eq!(GroupPattern::parse(text).unwrap().is_everything(), everything, "{text}");
        }
    }
}
