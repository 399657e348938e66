// row: K3
// what: the mount calls, old and new, plainly and in namespaces of the payload's own (CVE-2021-41133)
// control: plain
#include "attack.h"

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
// The capability comes from a namespace, where one can be had.
static void capable(void) {
    if (own_namespace(CLONE_NEWNS, 0, 0) == 0) mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}
static long try_mount(void) { capable(); return mount("t", "/tmp", "tmpfs", 0, NULL); }
static long try_umount(void) {
    capable();
    if (mount("t", "/tmp", "tmpfs", 0, NULL)) return -1;
    return umount2("/tmp", MNT_DETACH);
}
static long try_remount(void) {
    capable();
    if (mount("/tmp", "/tmp", NULL, MS_BIND, NULL)) return -1;
    return mount(NULL, "/tmp", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL);
}
static long try_chroot(void) { capable(); return chroot("/tmp"); }
static long try_pivot(void) {
    capable();
    if (mount("t", "/tmp", "tmpfs", 0, NULL) || chdir("/tmp")) return -1;
    return syscall(SYS_pivot_root, ".", ".");
}
static long try_open_tree(void) { capable(); return syscall(SYS_open_tree, AT_FDCWD, "/tmp", 1 /* OPEN_TREE_CLONE */); }
static long try_fsopen(void) { capable(); return syscall(SYS_fsopen, "tmpfs", 0); }
static long try_fsmount(void) {
    int context = try_fsopen();
    if (context < 0 || syscall(SYS_fsconfig, context, 6 /* create */, NULL, NULL, 0)) return -1;
    return syscall(SYS_fsmount, context, 0, 0);
}
static long try_move_mount(void) {
    int tree = try_fsmount();
    return tree < 0 ? -1 : syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp", 4 /* F_EMPTY_PATH */);
}
static long try_fspick(void) {
    capable();
    if (mount("t", "/tmp", "tmpfs", 0, NULL)) return -1;
    return syscall(SYS_fspick, AT_FDCWD, "/tmp", 0);
}
static long try_setattr(void) {
    struct { uint64_t set, clear, propagation, userns; } attributes = {.set = 2 /* nosuid */};
    int tree = try_fsmount();
    if (tree < 0) return -1;
    return syscall(SYS_mount_setattr, tree, "", 0x1000 /* AT_EMPTY_PATH */, &attributes, sizeof attributes);
}
void attack(void) {
    apart("mount", try_mount);
    apart("umount2", try_umount);
    apart("remount", try_remount);
    apart("chroot", try_chroot);
    apart("pivot_root", try_pivot);
    apart("open_tree", try_open_tree);
    apart("fsopen", try_fsopen);
    apart("fsmount", try_fsmount);
    apart("move_mount", try_move_mount);
    apart("fspick", try_fspick);
    apart("mount_setattr", try_setattr);
    judge();
}
