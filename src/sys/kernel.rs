//! Which kernel this is: uname(2).
#![forbid(unsafe_code)]

/// Its release as it names itself, such as `6.1.0-28-amd64`; empty where it does not say.
pub fn release() -> String {
    nix::sys::utsname::uname().map(|host| host.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a release is of this major and minor number or later. One that cannot be read is not.
pub fn is_at_least(release: &str, since: (u32, u32)) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(since.0), Some(since.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, since, is) in [
            ("6.1.0-28-amd64", (5, 14), true),
            ("5.14.0-427.el9.x86_64", (5, 14), true),
            ("5.10.0-33-amd64", (5, 9), true),
            ("5.10.0-33-amd64", (5, 14), false),
            ("4.18.0-553.el8", (5, 6), false),
            ("5.13.19", (5, 14), false),
            ("2.6.78.44", (5, 14), false),
            ("6.12+deb13", (6, 12), true),
            ("6", (5, 14), true),
            ("10.0", (5, 14), true),
            ("unknown", (3, 5), false),
            ("", (3, 5), false),
        ] {
            assert_eq!(is_at_least(release, since), is, "{release} {since:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter's kernel has no release of Linux's")]
    fn this_kernel_has_a_release() {
        assert!(is_at_least(&release(), (3, 5)));
    }
}
