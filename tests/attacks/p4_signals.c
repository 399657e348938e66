// row: P4
// what: blocked and ignored signals are inherited, so that the payload does not end when it is told to
// control: plain
#include "attack.h"

static const int signals[] = {SIGHUP, SIGTERM, SIGPIPE, SIGUSR1};
void launch(void) {
    for (int i = 0; i < 4; i++) sigaction(signals[i], &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}
static int survives(int signal) {
    pid_t pid = fork();
    if (pid == 0) {
        raise(signal);
        _exit(7);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status);
}
void attack(void) {
    way("TERM", survives(SIGTERM));
    way("HUP", survives(SIGHUP));
    way("PIPE", survives(SIGPIPE));
    way("USR1", survives(SIGUSR1));
    way("XCPU", survives(SIGXCPU));
    judge();
}
