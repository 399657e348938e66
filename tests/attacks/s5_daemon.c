// row: S5, S4
// what: a process that leaves its group, session and parent lives on after the payload
// control: plain
// bind: {dir}/out:/tmp/out:rw
#include "attack.h"

void pilot(void) {
    mkdir(in_dir("out"), 0700);
    put(in_dir("out/beat"), "x");
    ready("out=%s", in_dir("out"));
}
const char *hurt(void) {
    // It ends by itself after four seconds, sandbox or not.
    struct stat before, after;
    usleep(200000);
    stat(in_dir("out/beat"), &before);
    usleep(400000);
    stat(in_dir("out/beat"), &after);
    return before.st_size == after.st_size ? NULL : "a daemon of the payload lives on";
}
void attack(void) {
    const char *outside = value("out");
    if (chdir("/tmp/out") && chdir(outside)) cannot("the shared directory: %s", errno_name());
    int ready[2];
    if (pipe(ready)) cannot("pipe");
    if (fork() == 0) {
        setsid();
        if (fork()) _exit(0);
        alarm(0);
        prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
        int beat = open("beat", O_WRONLY | O_APPEND);
        for (int fd = 0; fd < 3; fd++) close(fd);
        for (int i = 0; i < 80; i++) {
            if (write(beat, "x", 1) != 1 || (i == 0 && write(ready[1], "x", 1) != 1)) _exit(0);
            usleep(50000);
        }
        _exit(0);
    }
    char byte;
    if (read(ready[0], &byte, 1) != 1) cannot("no daemon");
    prevented("it ended with the payload");
}
