// row: F18
// what: the payload mounts an overlay of its own (CVE-2021-3493, CVE-2023-0386)
// control: plain
#include "attack.h"

static long overlay(void) {
    if (own_namespace(CLONE_NEWNS, 0, 0)) return -1;
    if (mount("t", "/tmp", "tmpfs", 0, NULL)) return -1;
    mkdir("/tmp/u", 0700), mkdir("/tmp/w", 0700), mkdir("/tmp/m", 0700);
    return mount("o", "/tmp/m", "overlay", 0, "lowerdir=/usr,upperdir=/tmp/u,workdir=/tmp/w,userxattr");
}
static long plainly(void) { return mount("o", "/tmp", "overlay", 0, "lowerdir=/etc:/usr"); }
void attack(void) {
    apart("in-own-namespace", overlay);
    if (!*reached) apart("plainly", plainly);
    judge();
}
