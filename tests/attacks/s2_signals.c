// row: S2
// what: signals to the pilot: kill, tgkill, sigqueue, pidfd, everybody at once, and SIGIO by F_SETOWN
// control: plain
#include "attack.h"

#define SIGNAL SIGUSR1
static volatile sig_atomic_t got;
static void count(int signal) { (void)signal; got++; }
static long own_namespace_number(void) {
    struct stat about;
    return stat("/proc/self/ns/pid", &about) ? -1 : (long)about.st_ino;
}
void pilot(void) {
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = count, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGIO, &(struct sigaction){.sa_handler = count, .sa_flags = SA_RESTART}, NULL);
    // A group of its own: a signal to the group is then for it alone.
    setpgid(0, 0);
    ready("pid=%d namespace=%ld", getpid(), own_namespace_number());
}
const char *hurt(void) { return got ? "the pilot got signals" : NULL; }
void attack(void) {
    long pid = number("pid");
    way("kill", kill(pid, SIGNAL) == 0);
    way("group", kill(-pid, SIGNAL) == 0);
    way("tgkill", syscall(SYS_tgkill, pid, pid, SIGNAL) == 0);
    siginfo_t info = {.si_signo = SIGNAL, .si_code = SI_QUEUE};
    way("sigqueue", syscall(SYS_rt_sigqueueinfo, pid, SIGNAL, &info) == 0);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    way("pidfd", pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, SIGNAL, NULL, 0) == 0);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) cannot("socketpair: %s", errno_name());
    int owned = fcntl(pair[0], F_SETOWN, pid) == 0 && fcntl(pair[0], F_SETFL, O_ASYNC) == 0 && write(pair[1], "x", 1) == 1;
    way("F_SETOWN", owned);
    // Everybody that it may reach: only where the pid namespace is another one than the pilot's.
    long here = own_namespace_number();
    if (here > 0 && here != number("namespace")) {
        signal(SIGNAL, SIG_IGN);
        kill(-1, SIGNAL);
    }
    judge();
}
