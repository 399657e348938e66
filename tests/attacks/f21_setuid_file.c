// row: F21
// what: a setuid copy of a program, left in a shared directory, makes other accounts of the host the pilot
// control: plain
// bind: {dir}/out:/tmp/out:rw
// open: the file is only of use to somebody who can reach the directory: pilots keep theirs closed (mode 0700)
#include "attack.h"

void pilot(void) {
    mkdir(in_dir("out"), 0700);
    ready("out=%s", in_dir("out"));
}
// Whoever executes it becomes the pilot.
const char *hurt(void) {
    static const char *const names[] = {"out/chmod", "out/open", "out/mknod"};
    struct stat about;
    for (int i = 0; i < 3; i++)
        if (!stat(in_dir(names[i]), &about) && about.st_mode & S_ISUID && about.st_uid == geteuid())
            return "a program that anybody may run as the pilot lies in its directory";
    return NULL;
}
void attack(void) {
    if (chdir("/tmp/out") && chdir(value("out"))) cannot("the shared directory: %s", errno_name());
    umask(0);
    put("chmod", "x");
    way("chmod", chmod("chmod", 04755) == 0);
    int fd = open("open", O_WRONLY | O_CREAT, 04755);
    struct stat about;
    way("open", fd >= 0 && !fstat(fd, &about) && about.st_mode & S_ISUID);
    way("mknod", mknod("mknod", S_IFREG | 04755, 0) == 0 && !stat("mknod", &about) && about.st_mode & S_ISUID);
    judge();
}
