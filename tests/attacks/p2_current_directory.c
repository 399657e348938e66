// row: P2
// what: the current directory is outside the root (CVE-2024-21626)
// control: plain
#include "attack.h"

void pilot(void) {
    mkdir(in_dir("here"), 0700);
    put(in_dir("here/secret"), SECRET);
    put(in_dir("above"), SECRET);
    ready("pid=%d", getpid());
}
void launch(void) {
    if (chdir(in_dir("here"))) cannot("chdir: %s", errno_name());
}
void attack(void) {
    way("./secret", holds("secret", SECRET));
    way("../above", holds("../above", SECRET));
    way("/proc/self/cwd", holds("/proc/self/cwd/secret", SECRET));
    judge();
}
