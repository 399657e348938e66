// row: P3
// what: a standard stream is closed, and the next file that is opened lands on it
// control: plain
#include "attack.h"

// All eight combinations; the verdict is the worst of them.
void launch(void) {
    char **command = values;
    while (*command && strcmp(*command, "--")) command++;
    int worst = PREVENTED, bad = -1, nothing = open("/dev/null", O_RDWR);
    for (int closed = 0; closed < 8; closed++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int fd = 0; fd < 3; fd++)
                if (closed & (1 << fd)) close(fd);
                else dup2(nothing, fd);
            if (nothing > 2) close(nothing);
            execvp(command[1], command + 1);
            _exit(99);
        }
        int status = 0;
        waitpid(pid, &status, 0);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 98;
        if (code == SUCCEEDED && worst != CANNOT) worst = SUCCEEDED, bad = closed;
        else if (code != PREVENTED && code != SUCCEEDED) worst = CANNOT, bad = closed * 1000 + code;
    }
    if (worst == SUCCEEDED) succeeded("a file landed on a stream; closed were the bits of %d", bad);
    if (worst == PREVENTED) prevented("eight combinations of closed streams");
    cannot("closed * 1000 + exit code: %d", bad);
}
void attack(void) {
    char name[] = "/tmp/closed-XXXXXX";
    int fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0) _exit(CANNOT);
    // A program that prints now writes into its own file; worse where the launcher opened one.
    struct stat about;
    int lands = 0;
    for (int stream = 0; stream < 3; stream++)
        if (fstat(stream, &about) || S_ISREG(about.st_mode) || S_ISDIR(about.st_mode) || S_ISSOCK(about.st_mode)) lands = 1;
    unlink(name);
    _exit(lands ? SUCCEEDED : PREVENTED);
}
