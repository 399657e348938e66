//! File systems of the host that must never show in a payload's tree, wherever a bind brought them along.
#![forbid(unsafe_code)]

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden {
    /// As mountinfo names it.
    pub name: &'static [u8],
    /// `f_type` of statfs(2) (<linux/magic.h>).
    pub magic: i64,
    /// Why none is bound, said to the caller.
    pub why: &'static str,
}

const fn hidden(name: &'static [u8], magic: i64, why: &'static str) -> Hidden {
    Hidden { name, magic, why }
}

const KERNEL: &str = "it lies on a file system of the kernel's own settings";

/// Control groups, which the caller may own; processes of others; devices of the host; and doors to the kernel, of which some
/// are open to whoever may write a file.
pub const HIDDEN: [Hidden; 13] = [
    hidden(b"cgroup2", 0x6367_7270, "it lies on the control group file system"),
    hidden(b"cgroup", 0x0027_e0eb, "it lies on the control group file system"),
    hidden(b"proc", 0x9fa0, "it lies on the host's proc, which shows other processes"),
    hidden(
        b"sysfs",
        0x6265_6572,
        "it lies on the host's sysfs; the site lists what of it is shown (root.sys)",
    ),
    hidden(b"securityfs", 0x7363_6673, KERNEL),
    hidden(b"debugfs", 0x6462_6720, KERNEL),
    hidden(b"tracefs", 0x7472_6163, KERNEL),
    hidden(b"bpf", 0xcafe_4a11, KERNEL),
    hidden(b"configfs", 0x6265_6570, KERNEL),
    hidden(b"efivarfs", 0xde5e_81e4, KERNEL),
    hidden(b"pstore", 0x6165_676c, KERNEL),
    hidden(b"mqueue", 0x1980_0202, "it shows the host's message queues"),
    hidden(b"nsfs", 0x6e73_6673, "it is a namespace of another process"),
];

/// By the type in mountinfo.
pub fn by_name(name: &[u8]) -> Option<&'static Hidden> {
    HIDDEN.iter().find(|hidden| hidden.name == name)
}

/// By the type that statfs(2) tells of what lies at `path` on the host. Parts of sysfs below /sys are the site's to show.
pub fn by_magic(magic: i64, path: &[u8]) -> Option<&'static Hidden> {
    let found = HIDDEN.iter().find(|hidden| hidden.magic == magic)?;
    (found.name != b"sysfs" || !path.starts_with(b"/sys/")).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_site_shows_of_sysfs_is_no_reason_to_look_further() {
        assert_eq!(by_magic(0x6265_6572, b"/sys/devices/system"), None);
        assert!(by_magic(0x6265_6572, b"/data/chroot/sys").is_some());
        assert_eq!(by_magic(libc::TMPFS_MAGIC, b"/tmp"), None);
    }

    #[test]
    fn the_numbers_are_the_kernels() {
        for (path, name) in [("/proc", b"proc".as_slice()), ("/sys", b"sysfs")] {
            let magic = nix::sys::statfs::statfs(path).unwrap().filesystem_type().0;
            assert_eq!(by_magic(magic, b"/").map(|hidden| hidden.name), Some(name));
        }
        assert_eq!(by_name(b"cgroup").map(|hidden| hidden.magic), Some(libc::CGROUP_SUPER_MAGIC));
        assert_eq!(by_name(b"cgroup2").map(|hidden| hidden.magic), Some(libc::CGROUP2_SUPER_MAGIC));
        let mut magics: Vec<i64> = HIDDEN.iter().map(|hidden| hidden.magic).collect();
        magics.sort_unstable();
        magics.dedup();
        assert_eq!(magics.len(), HIDDEN.len());
    }
}
