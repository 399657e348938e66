// row: F20
// what: noexec, nosymfollow and nodev of a mount are lost when it is mounted again (bubblewrap#770)
// control: naive
// kernel: noexec: the kernel locks it for the next user namespace
// bind: {dir}/tree:/tmp/data
#include "attack.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
void pilot(void) {
    mkdir(in_dir("tree"), 0700);
    ready("pid=%d", getpid());
}
void launch(void) {
    own_mounts();
    if (mount("tmp", in_dir("tree"), "tmpfs", MS_NOSYMFOLLOW | MS_NOEXEC, NULL)) cannot("tmpfs: %s", errno_name());
    put(in_dir("tree/file"), SECRET);
    if (symlink("file", in_dir("tree/link"))) cannot("link");
    put(in_dir("tree/program"), "#!/bin/sh\nexit 0\n");
    chmod(in_dir("tree/program"), 0755);
    back();
}
void attack(void) {
    if (!holds("/tmp/data/file", SECRET)) cannot("the file system did not arrive: %s", errno_name());
    way("nosymfollow", holds("/tmp/data/link", SECRET));
    way("noexec", access("/tmp/data/program", X_OK) == 0);
    judge();
}
