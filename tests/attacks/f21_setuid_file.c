// row: F21
// what: a setuid copy of a program, left in a shared directory, makes other accounts of the host the pilot
// control: plain
// bind: {dir}/out:/tmp/out:rw
// off: sandbox.seccomp = "off"
#include "attack.h"
#include <linux/openat2.h>
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

void pilot(void) {
    mkdir(in_dir("out"), 0700);
    ready("out=%s", in_dir("out"));
}
// Whoever executes it becomes the pilot.
const char *hurt(void) {
    DIR *out = opendir(in_dir("out"));
    if (!out) return "its directory is gone";
    struct stat about;
    for (struct dirent *entry; (entry = readdir(out));)
        if (!fstatat(dirfd(out), entry->d_name, &about, AT_SYMLINK_NOFOLLOW) && S_ISREG(about.st_mode) &&
            about.st_mode & S_ISUID && about.st_uid == geteuid())
            return "a program that anybody may run as the pilot lies in its directory";
    return NULL;
}
static int is_setuid(const char *name) {
    struct stat about;
    return !stat(name, &about) && about.st_mode & S_ISUID;
}
// The kernel may have no such call: then it is no way.
static void try(const char *name, long result) {
    int saved = errno;
    if (result < 0 && saved == ENOSYS && access(name, F_OK)) return;
    errno = saved;
    way(name, result >= 0 && is_setuid(name));
}
void attack(void) {
    if (chdir("/tmp/out") && chdir(value("out"))) cannot("the shared directory: %s", errno_name());
    umask(0);
    const char *const made[] = {"chmod", "fchmod", "fchmodat"};
    for (int at = 0; at < 3; at++) put(made[at], "x");
#ifdef SYS_chmod
    try("chmod", syscall(SYS_chmod, "chmod", 04755));
#endif
    try("fchmod", fchmod(open("fchmod", O_RDONLY), 04755));
    try("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "fchmodat", 04755));
    if (syscall(SYS_fchmodat2, -1, "", 0, 0) && errno != ENOSYS) {
        put("fchmodat2", "x");
        try("fchmodat2", syscall(SYS_fchmodat2, AT_FDCWD, "fchmodat2", 04755, 0));
    }
#ifdef SYS_open
    try("open", syscall(SYS_open, "open", O_WRONLY | O_CREAT, 04755));
    try("creat", syscall(SYS_creat, "creat", 04755));
    try("mknod", syscall(SYS_mknod, "mknod", S_IFREG | 04755, 0));
#endif
    try("openat", syscall(SYS_openat, AT_FDCWD, "openat", O_WRONLY | O_CREAT, 04755));
    struct open_how how = {.flags = O_WRONLY | O_CREAT, .mode = 04755};
    try("openat2", syscall(SYS_openat2, AT_FDCWD, "openat2", &how, sizeof how));
    try("mknodat", syscall(SYS_mknodat, AT_FDCWD, "mknodat", S_IFREG | 04755, 0));
    // Without a name first.
    int fd = open(".", O_WRONLY | O_TMPFILE, 04755);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd >= 0 || errno != EOPNOTSUPP) try("tmpfile", fd < 0 ? fd : linkat(AT_FDCWD, path, AT_FDCWD, "tmpfile", AT_SYMLINK_FOLLOW));
    judge();
}
