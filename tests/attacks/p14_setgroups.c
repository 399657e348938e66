// row: P14
// what: a supplementary group that denies access is dropped (CVE-2014-8989)
// control: kernel: an unprivileged gid_map is possible only after setgroups is denied
#include "attack.h"

static long drop(void) { return setgroups(0, NULL); }
static long allow(void) { return put("/proc/self/setgroups", "allow"); }
void attack(void) {
    apart("setgroups", drop);
    apart("allow-again", allow);
    judge();
}
