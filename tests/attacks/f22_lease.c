// row: F22
// what: a lease or a lock on a file that is bound read-only makes the pilot wait for its own file
// control: plain
// bind: {dir}/in:/tmp/in
// open: leases need the file's owner, whom the payload has in common with the pilot; the kernel ends them after 45 s
#include "attack.h"
#include <sys/file.h>

void pilot(void) {
    mkdir(in_dir("in"), 0700);
    put(in_dir("in/file"), "x");
    ready("in=%s", in_dir("in"));
    // While the attack holds on, the pilot wants to write its own file.
    for (int i = 0; i < 400; i++) {
        struct pollfd end = {.fd = 0, .events = POLLIN};
        if (poll(&end, 1, 5) > 0) break;
        int fd = open(in_dir("in/file"), O_RDWR | O_NONBLOCK | O_CLOEXEC);
        int held = fd < 0 && errno == EWOULDBLOCK;
        if (fd >= 0) held = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
        if (fd >= 0) close(fd);
        if (held) {
            put(in_dir("held"), "x");
            break;
        }
    }
}
const char *hurt(void) { return access(in_dir("held"), F_OK) ? NULL : "the pilot could not open or lock its own file"; }
void attack(void) {
    if (chdir("/tmp/in") && chdir(value("in"))) cannot("the shared directory: %s", errno_name());
    signal(SIGIO, SIG_IGN);
    int lease = open("file", O_RDONLY), lock = open("file", O_RDONLY);
    if (lock < 0) cannot("the file: %s", errno_name());
    way("flock", flock(lock, LOCK_EX | LOCK_NB) == 0);
    way("read-lease", fcntl(lease, F_SETLEASE, F_RDLCK) == 0);
    usleep(300000);
    judge();
}
