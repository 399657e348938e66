// row: F6
// what: a file system mounted below a read-only directory stays writable
// control: naive
// bind: {dir}/tree:/tmp/data
#include "attack.h"

void launch(void) {
    own_mounts();
    mkdir(in_dir("tree"), 0700);
    mkdir(in_dir("tree/sub"), 0700);
    if (mount("tmp", in_dir("tree/sub"), "tmpfs", 0, NULL)) cannot("tmpfs: %s", errno_name());
    mkdir(in_dir("tree/sub/deeper"), 0700);
    if (mount("tmp", in_dir("tree/sub/deeper"), "tmpfs", 0, NULL)) cannot("tmpfs: %s", errno_name());
    put(in_dir("tree/sub/deeper/file"), "x");
    back();
}
void pilot(void) {
    mkdir(in_dir("tree"), 0700);
    ready("pid=%d", getpid());
}
void attack(void) {
    if (access("/tmp/data/sub/deeper", F_OK)) cannot("the file systems below did not arrive: %s", errno_name());
    way("sub", put("/tmp/data/sub/new", "x") == 0);
    way("sub/deeper", put("/tmp/data/sub/deeper/new", "x") == 0);
    judge();
}
