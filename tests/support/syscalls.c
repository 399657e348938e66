// Bare system calls, and what becomes of them. Statically linked, so that it runs in any image.
//
//   syscalls ABI NUMBER [ARG...] [, ABI NUMBER...]   one call a line: "NUMBER: ok VALUE" or "NUMBER: ERRNO"
//   syscalls each ABI NUMBER...                      each in a process of its own, all arguments -1
//   syscalls threads | trace | storm SECONDS | time CALLS
//
// ABI: native, x32 (the same with bit 30), i386 (int 0x80).
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long i386(long number, const long *a) {
#ifdef __x86_64__
    long result;
    // The sixth argument would be in the frame pointer; nothing here needs it.
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "memory", "r8", "r9", "r10", "r11");
    result = (int)result;
    if (result < 0 && result > -4096) { errno = (int)-result; return -1; }
    return result;
#else
    (void)number, (void)a;
    errno = ENOSYS;
    return -1;
#endif
}

static long call(const char *abi, long number, const long *a) {
    if (!strcmp(abi, "i386")) return i386(number, a);
    if (!strcmp(abi, "x32")) number |= 0x40000000;
    return syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void say(long number, long result) {
    const char *name = strerrorname_np(errno);
    if (result >= 0) printf("%ld: ok %ld\n", number, result);
    else if (name) printf("%ld: %s\n", number, name);
    else printf("%ld: errno %d\n", number, errno);
    fflush(stdout);
}

static void each(const char *abi, char **numbers, int count) {
    const long all[6] = {-1, -1, -1, -1, -1, -1};
    for (int at = 0; at < count; at++) {
        long number = strtol(numbers[at], NULL, 0);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(5);
            say(number, call(abi, number, all));
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status)) printf("%ld: signal %d\n", number, WTERMSIG(status));
    }
}

static void *count(void *value) {
    ++*(int *)value;
    return NULL;
}

static void threads(void) {
    int counts[16] = {0}, sum = 0;
    pthread_t all[16];
    for (int at = 0; at < 16; at++) {
        int error = pthread_create(&all[at], NULL, count, &counts[at]);
        if (error) { printf("pthread_create: %s\n", strerrorname_np(error)); exit(1); }
    }
    for (int at = 0; at < 16; at++) { pthread_join(all[at], NULL); sum += counts[at]; }
    printf("threads: %d\n", sum);
}

// As a debugger does: traces a child, stops it at a getppid(2), lets the kernel skip the call and gives it a result.
static void trace(void) {
    pid_t pid = fork();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) { printf("trace: %s\n", strerrorname_np(errno)); fflush(stdout); _exit(1); }
        raise(SIGSTOP);
        _exit(syscall(SYS_getppid) == 4711 ? 42 : 43);
    }
    int status, changed = 0;
    waitpid(pid, &status, 0);
    while (WIFSTOPPED(status)) {
#ifdef __x86_64__
        struct user_regs_struct regs;
        ptrace(PTRACE_GETREGS, pid, NULL, &regs);
        if (changed == 1) {
            regs.rax = 4711;
            ptrace(PTRACE_SETREGS, pid, NULL, &regs);
            changed = 2;
        } else if (regs.orig_rax == SYS_getppid && !changed) {
            regs.orig_rax = -1;
            ptrace(PTRACE_SETREGS, pid, NULL, &regs);
            changed = 1;
        }
#endif
        ptrace(PTRACE_SYSCALL, pid, NULL, NULL);
        waitpid(pid, &status, 0);
    }
    printf("trace: %s\n", WIFEXITED(status) && WEXITSTATUS(status) == 42 ? "ok" : "the child did not see it");
}

static int gone(void *unused) {
    (void)unused;
    _exit(0);
}

// One CPU second for pid 1, then as much work for it as there can be: signals, and children that are born as its own
// (CLONE_PARENT of one whose parent it is), which costs the one that makes them little more than pid 1's reaping.
static void storm(int seconds) {
    const struct rlimit one = {1, 1};
    long result = prlimit(1, RLIMIT_CPU, &one, NULL);
    printf("prlimit: %s\n", result ? strerrorname_np(errno) : "ok");
    fflush(stdout);
    time_t end = time(NULL) + seconds;
    signal(SIGCHLD, SIG_DFL);
    for (int worker = 0; worker < 2; worker++) {
        pid_t between = fork();
        if (between == 0) {
            if (fork() != 0) _exit(0);
            while (getppid() != 1) usleep(1000);
            static char stack[16384] __attribute__((aligned(16)));
            while (time(NULL) < end) {
                for (int at = 0; at < 100; at++)
                    clone(gone, stack + sizeof stack, CLONE_PARENT | CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
                kill(1, SIGCONT);
            }
            _exit(0);
        }
        waitpid(between, NULL, 0);
    }
    while (time(NULL) <= end) usleep(10000);
    printf("init: lives\n");
}

static void timing(long calls) {
    struct timespec a, b;
    double best = 1e9;
    for (int turn = 0; turn < 5; turn++) {
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (long at = 0; at < calls; at++) syscall(SYS_getppid);
        clock_gettime(CLOCK_MONOTONIC, &b);
        double ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)calls;
        if (ns < best) best = ns;
    }
    printf("%.1f\n", best);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "each")) { each(argv[2], argv + 3, argc - 3); return 0; }
    if (argc == 2 && !strcmp(argv[1], "threads")) { threads(); return 0; }
    if (argc == 2 && !strcmp(argv[1], "trace")) { trace(); return 0; }
    if (argc == 3 && !strcmp(argv[1], "storm")) { storm(atoi(argv[2])); return 0; }
    if (argc == 3 && !strcmp(argv[1], "time")) { timing(atol(argv[2])); return 0; }
    for (int at = 1; at + 1 < argc; at++) {
        const char *abi = argv[at++];
        long number = strtol(argv[at++], NULL, 0), a[6] = {0};
        for (int n = 0; at < argc && strcmp(argv[at], ","); at++, n++) {
            // "text:" is the address of what follows.
            if (n < 6) a[n] = !strncmp(argv[at], "text:", 5) ? (long)(argv[at] + 5) : (long)strtoull(argv[at], NULL, 0);
        }
        say(number, call(abi, number, a));
    }
    return 0;
}
