// row: P6
// what: a core file with secrets of the environment
// control: plain
#include "attack.h"

void launch(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    if (limit.rlim_max == 0) cannot("the pilot itself may not have core files");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
}
void attack(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    if (limit.rlim_max == 0) {
        limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
        if (setrlimit(RLIMIT_CORE, &limit)) prevented("the limit is zero and cannot be raised");
    }
    char name[] = "/tmp/core-XXXXXX";
    if (!mkdtemp(name) || chdir(name)) cannot("no directory: %s", errno_name());
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
    pid_t pid = fork();
    if (pid == 0) abort();
    int status = 0;
    waitpid(pid, &status, 0);
    // By core_pattern it may lie elsewhere: that the kernel made one is what counts.
    if (chdir("/") == 0) {
        char command[4096];
        snprintf(command, sizeof command, "%s/core", name);
        unlink(command);
        snprintf(command, sizeof command, "%s/core.%d", name, pid);
        unlink(command);
        rmdir(name);
    }
    if (WCOREDUMP(status)) succeeded("a core file was written");
    prevented("no core file, though the limit is not zero");
}
