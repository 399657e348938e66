// row: P10, P9
// what: a setuid program makes the payload root
// control: plain
#include "attack.h"

void attack(void) {
    static const char *const names[] = {"/usr/bin/su", "/bin/su"};
    struct stat about;
    const char *su = NULL;
    for (int i = 0; i < 2 && !su; i++)
        if (!stat(names[i], &about) && about.st_mode & S_ISUID) su = names[i];
    if (!su) cannot("no setuid program to try");
    // It asks for a password; meanwhile the kernel shows as whom.
    int input[2];
    if (pipe(input)) cannot("pipe");
    pid_t pid = fork();
    if (pid == 0) {
        dup2(input[0], 0);
        close(input[1]);
        int nothing = open("/dev/null", O_WRONLY);
        dup2(nothing, 1), dup2(nothing, 2);
        execl(su, "su", "root", NULL);
        _exit(99);
    }
    close(input[0]);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int root = 0, seen = 0;
    for (int i = 0; i < 200 && !root; i++) {
        usleep(5000);
        const char *status = get(path);
        if (!status || !strstr(status, "Name:\tsu\n")) continue;
        seen = 1;
        unsigned real = 1, effective = 1;
        sscanf(strstr(status, "\nUid:"), "\nUid: %u %u", &real, &effective);
        unsigned long long caps = 0;
        sscanf(strstr(status, "\nCapEff:"), "\nCapEff: %llx", &caps);
        root = effective == 0 || caps != 0;
    }
    close(input[1]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (root) succeeded("%s runs as root", su);
    if (!seen) cannot("%s did not run", su);
    prevented("%s runs as the payload's own user, without a capability", su);
}
