// What a hostile payload or pilot tries, one operation a line. Statically linked, so that it runs in any image.
//
//   attack OPERATION [ARG...] [, OPERATION...]   prints "OPERATION: ok" or the errno's name, or what it found
//   attack exec-OPERATION [ARG...] -- COMMAND... sets something up as a pilot would, then executes COMMAND
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *what, long result) {
    if (result >= 0) printf("%s: ok\n", what);
    else printf("%s: %s\n", what, strerrorname_np(errno));
    fflush(stdout);
}

// Runs `f` in a child, so that what it changes is gone again.
static void apart(const char *what, long (*f)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        long result = f();
        _exit(result >= 0 ? 0 : errno);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    say(what, errno == 0 ? 0 : -1);
}

static long try_unshare(void) { return unshare(CLONE_NEWUSER); }
static int nothing(void *unused) { (void)unused; return 0; }
static char stack[65536];
static long try_clone(void) { return clone(nothing, stack + sizeof stack, CLONE_NEWUSER | SIGCHLD, NULL); }
static long try_clone3(void) {
    struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) _exit(0);
    return pid;
}
static long try_mount(void) { return mount("x", "/tmp", "tmpfs", 0, NULL); }
static long try_overlay(void) { return mount("x", "/tmp", "overlay", 0, "lowerdir=/etc:/usr"); }
static long try_umount(void) { return umount2("/proc", MNT_DETACH); }
static long try_open_tree(void) { return syscall(SYS_open_tree, AT_FDCWD, "/usr", 1 /* OPEN_TREE_CLONE */); }
static long try_fsopen(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long try_chroot(void) { return chroot("/tmp"); }
static long try_pivot(void) { return syscall(SYS_pivot_root, ".", "."); }
static long try_remount(void) { return mount(NULL, "/etc/passwd", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long try_setns(void) {
    int fd = open("/proc/1/ns/mnt", O_RDONLY);
    return fd < 0 ? -1 : setns(fd, 0);
}
static long try_setgroups(void) { return setgroups(0, NULL); }
static long try_ambient(void) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0); }
static long try_securebits(void) { return prctl(PR_SET_SECUREBITS, 0, 0, 0, 0); }
static long try_setuid0(void) { return setuid(0); }

static void list_fds(void) {
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int numbers[4096], count = 0;
    while (dir && (entry = readdir(dir)) && count < 4096)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(dir)) numbers[count++] = atoi(entry->d_name);
    printf("fds:");
    for (int want = 0; want < 65536; want++)
        for (int i = 0; i < count; i++)
            if (numbers[i] == want) printf(" %d", want);
    printf("\n");
}

static void peek(int pid) {
    char path[64], buffer[256];
    static const char *const files[] = {"mem", "environ", "exe", "root", "cwd", "fd/0", "ns/mnt", "maps", "auxv"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        int fd = open(path, O_RDONLY);
        // mem and environ of a kernel thread open and give nothing: what counts is a byte.
        if (fd >= 0 && !strcmp(files[i], "environ") && read(fd, buffer, 1) < 0) { close(fd); fd = -1; }
        say(files[i], fd);
        if (fd >= 0) close(fd);
    }
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    say("write-exe", open(path, O_WRONLY));
    struct iovec local = {buffer, 8}, remote = {(void *)0x400000, 8};
    long got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    // EFAULT: allowed, only nothing is mapped there.
    say("process_vm_readv", got < 0 && errno == EFAULT ? 0 : got);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    if (pidfd >= 0) say("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    long attached = ptrace(PTRACE_ATTACH, pid, 0, 0);
    say("ptrace", attached);
    if (attached == 0) {
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
}

static long key(int operation, unsigned long a, unsigned long b, unsigned long c, unsigned long d) {
    return syscall(SYS_keyctl, operation, a, b, c, d);
}
static void read_key(const char *where, long ring, const char *name) {
    char secret[128] = "";
    long found = key(KEYCTL_SEARCH, ring, (unsigned long)"user", (unsigned long)name, 0);
    if (found >= 0 && key(KEYCTL_READ, found, (unsigned long)secret, sizeof secret - 1, 0) >= 0)
        printf("%s: %s\n", where, secret);
    else say(where, -1);
}

static void show(const char *path) {
    struct stat s;
    if (lstat(path, &s)) { say(path, -1); return; }
    const char *kind = S_ISDIR(s.st_mode) ? "dir" : S_ISLNK(s.st_mode) ? "link" : S_ISREG(s.st_mode) ? "file"
                     : S_ISCHR(s.st_mode) ? "char" : S_ISFIFO(s.st_mode) ? "fifo" : S_ISSOCK(s.st_mode) ? "socket" : "other";
    if (S_ISCHR(s.st_mode)) printf("%s: char %u:%u\n", path, major(s.st_rdev), minor(s.st_rdev));
    else printf("%s: %s %o\n", path, kind, s.st_mode & 07777);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void list(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) { say(path, -1); return; }
    char *names[8192];
    size_t count = 0;
    for (struct dirent *entry; count < 8192 && (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) names[count++] = strdup(entry->d_name);
    closedir(dir);
    qsort(names, count, sizeof *names, by_name);
    printf("%s:", path);
    for (size_t i = 0; i < count; i++) printf(" %s", names[i]);
    printf("\n");
}

static void cat(const char *path) {
    char text[4096];
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (got < 0) { say(path, -1); return; }
    fwrite(text, 1, got, stdout);
    if (got == 0 || text[got - 1] != '\n') printf("\n");
    close(fd);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    say(path, fd < 0 ? -1 : write(fd, text, strlen(text)));
    if (fd >= 0) close(fd);
}

// Takes memory and writes to all of it.
static void allocate(size_t bytes) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) { say("allocate", -1); return; }
    for (size_t i = 0; i < bytes; i += 4096) at[i] = 1;
    say("allocate", 0);
    munmap(at, bytes);
}

// Children that live at one time, `most` at most; says how many, and why no more. They end before it returns.
static void forks(int most) {
    int count = 0, stop[2], why = 0;
    if (pipe(stop)) { say("pipe", -1); return; }
    for (; count < most; count++) {
        pid_t pid = fork();
        if (pid == 0) { char c; close(stop[1]); (void)!read(stop[0], &c, 1); _exit(0); }
        if (pid < 0) { why = errno; break; }
    }
    close(stop[0]);
    close(stop[1]);
    while (wait(NULL) > 0) {}
    printf("forks: %d %s\n", count, why ? strerrorname_np(why) : "ok");
}

static void *linger(void *fd) { char c; (void)!read(*(int *)fd, &c, 1); return NULL; }

// The same with threads, which count as processes do.
static void threads(int most) {
    static pthread_t all[1000];
    pthread_attr_t small;
    int count = 0, stop[2], why = 0;
    if (pipe(stop) || most > 1000) { say("threads", -1); return; }
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    while (count < most && !(why = pthread_create(&all[count], &small, linger, &stop[0]))) count++;
    close(stop[1]);
    for (int i = 0; i < count; i++) pthread_join(all[i], NULL);
    close(stop[0]);
    printf("threads: %d %s\n", count, why ? strerrorname_np(why) : "ok");
}

// A fork bomb: every process forks on, without waiting, until `most` were made in all or a second went by. Says how many lived
// at one time at most.
static void bomb(int most) {
    struct { _Atomic int made, alive, peak; } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    time_t end = time(NULL) + 2;
    pid_t own = getpid();
    shared->alive = 1;
    while (shared->made < most && time(NULL) < end) {
        pid_t pid = fork();
        if (pid < 0) { usleep(1000); continue; }
        if (pid > 0) continue;
        if (shared->made++ >= most) _exit(0);
        int alive = ++shared->alive;
        for (int peak = shared->peak; alive > peak && !atomic_compare_exchange_weak(&shared->peak, &peak, alive);) {}
    }
    if (getpid() != own) { while (time(NULL) < end) usleep(10000); _exit(0); }
    while (wait(NULL) > 0) {}
    printf("bomb: %d\n", shared->peak);
}

static void operation(int argc, char **argv) {
    const char *what = argv[0], *arg = argc > 1 ? argv[1] : "", *second = argc > 2 ? argv[2] : "";
    if (!strcmp(what, "fds")) list_fds();
    else if (!strcmp(what, "exit")) { fflush(stdout); _exit(atoi(arg)); }
    else if (!strcmp(what, "show")) for (int i = 1; i < argc; i++) show(argv[i]);
    else if (!strcmp(what, "ls")) list(arg);
    else if (!strcmp(what, "cat")) cat(arg);
    else if (!strcmp(what, "write")) put(arg, second);
    else if (!strcmp(what, "mkdir")) say("mkdir", mkdir(arg, 0755));
    else if (!strcmp(what, "unlink")) say("unlink", unlink(arg));
    else if (!strcmp(what, "peek")) peek(atoi(arg));
    else if (!strcmp(what, "kill")) say("kill", kill(atoi(arg), atoi(second)));
    else if (!strcmp(what, "pidfd_open")) say("pidfd_open", syscall(SYS_pidfd_open, atoi(arg), 0));
    else if (!strcmp(what, "namespaces")) {
        apart("unshare", try_unshare);
        apart("clone", try_clone);
        apart("clone3", try_clone3);
    } else if (!strcmp(what, "mounts")) {
        apart("mount", try_mount);
        apart("overlay", try_overlay);
        apart("umount", try_umount);
        apart("remount", try_remount);
        apart("open_tree", try_open_tree);
        apart("fsopen", try_fsopen);
        apart("chroot", try_chroot);
        apart("pivot_root", try_pivot);
        apart("setns", try_setns);
    } else if (!strcmp(what, "privileges")) {
        apart("setgroups", try_setgroups);
        apart("ambient", try_ambient);
        apart("set-securebits", try_securebits);
        apart("setuid", try_setuid0);
        printf("securebits: %#x\n", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
        printf("no_new_privs: %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    } else if (!strcmp(what, "read-key")) {
        read_key("session", KEY_SPEC_SESSION_KEYRING, arg);
        read_key("user", KEY_SPEC_USER_KEYRING, arg);
        read_key("user-session", KEY_SPEC_USER_SESSION_KEYRING, arg);
    } else if (!strcmp(what, "make-shm")) {
        int id = shmget(strtol(arg, NULL, 0), 4096, IPC_CREAT | 0600);
        char *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
        if (at != (void *)-1) strcpy(at, second);
        say("make-shm", at == (void *)-1 ? -1 : 0);
    } else if (!strcmp(what, "read-shm")) {
        int id = shmget(strtol(arg, NULL, 0), 0, 0);
        char *at = id < 0 ? (void *)-1 : shmat(id, NULL, SHM_RDONLY);
        if (at == (void *)-1) say("shm", -1);
        else printf("shm: %s\n", at);
    } else if (!strcmp(what, "remove-shm")) {
        int id = shmget(strtol(arg, NULL, 0), 0, 0);
        say("remove-shm", id < 0 ? -1 : shmctl(id, IPC_RMID, NULL));
    } else if (!strcmp(what, "connect")) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, arg, sizeof address.sun_path - 1);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        say("connect", connect(fd, (struct sockaddr *)&address, sizeof address));
        close(fd);
    } else if (!strcmp(what, "abort")) abort();
    else if (!strcmp(what, "allocate")) allocate(strtoul(arg, NULL, 0) << 20);
    else if (!strcmp(what, "reserve")) {
        void *at = mmap(NULL, strtoul(arg, NULL, 0) << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        say("reserve", at == MAP_FAILED ? -1 : 0);
    } else if (!strcmp(what, "forks")) forks(atoi(arg));
    else if (!strcmp(what, "threads")) threads(atoi(arg));
    else if (!strcmp(what, "own-namespace")) say("own-namespace", unshare(CLONE_NEWUSER));
    else if (!strcmp(what, "raise")) {
        struct rlimit much = {RLIM_INFINITY, RLIM_INFINITY};
        say("raise-data", setrlimit(RLIMIT_DATA, &much));
        say("raise-nproc", setrlimit(RLIMIT_NPROC, &much));
    } else if (!strcmp(what, "bomb")) bomb(atoi(arg));
    else if (!strcmp(what, "wait-for-line")) while (getchar() != '\n' && !feof(stdin)) {}
    else { fprintf(stderr, "attack: no operation %s\n", what); exit(99); }
    fflush(stdout);
}

// The pilot's side: prepares, then becomes COMMAND.
static void prepare(const char *what, const char *arg, const char *second) {
    if (!strcmp(what, "exec-leak")) {
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        int dir = open(arg, O_RDONLY | O_DIRECTORY), path = open(arg, O_PATH | O_DIRECTORY);
        static const int numbers[] = {3, 77, 251, 1000};
        int high = fcntl(dir, F_DUPFD, 2000), high_path = fcntl(path, F_DUPFD, 2000);
        for (size_t i = 0; i < 4; i++) dup2(high, numbers[i]);
        dup2(high_path, 500);
        for (int fd = 4; fd < 2100; fd++)
            if (fd != 77 && fd != 251 && fd != 500 && fd != 1000) close(fd);
    } else if (!strcmp(what, "exec-signals")) {
        for (int signal = 1; signal < 65; signal++)
            if (signal == SIGHUP || signal == SIGTERM || signal == SIGPIPE || signal == SIGUSR1 || signal == SIGCHLD)
                sigaction(signal, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
    } else if (!strcmp(what, "exec-key")) {
        key(KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0);
        if (syscall(SYS_add_key, "user", arg, second, strlen(second), KEY_SPEC_SESSION_KEYRING) < 0) perror("add_key @s");
        if (syscall(SYS_add_key, "user", arg, second, strlen(second), KEY_SPEC_USER_KEYRING) < 0) perror("add_key @u");
    } else if (!strcmp(what, "exec-no-clone3") || !strcmp(what, "exec-filter")) {
        // An outer container's filter: clone3, or the call of that number, fails with this errno.
        unsigned number = !strcmp(what, "exec-filter") ? (unsigned)atoi(second) : SYS_clone3;
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)atoi(arg)),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog filter = {sizeof code / sizeof *code, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) perror("seccomp");
    } else { fprintf(stderr, "attack: no preparation %s\n", what); exit(99); }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strncmp(argv[1], "exec-", 5)) {
        int at = 2;
        while (at < argc && strcmp(argv[at], "--")) at++;
        prepare(argv[1], argc > 2 ? argv[2] : "", argc > 3 ? argv[3] : "");
        execvp(argv[at + 1], argv + at + 1);
        perror(argv[at + 1]);
        return 99;
    }
    for (int from = 1, at = 1; at <= argc; at++)
        if (at == argc || !strcmp(argv[at], ",")) {
            if (at > from) operation(at - from, argv + from);
            from = at + 1;
        }
    return 0;
}
