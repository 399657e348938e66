/*
 * Runs the tests of a list in a virtual machine, each in a process and in a control group of its own. (Called by
 * tests/vm/suite.sh. In emulation a shell that started a dozen programs for each test would cost more than the tests.)
 *
 *   vm_runner LIST WORKERS SECONDS CGROUP PROGRAMS OUT
 *
 * LIST       lines PROGRAM::TEST; PROGRAMS/PROGRAM is started with --exact TEST --nocapture
 * CGROUP     below it each worker has a slice, slot1_N.slice, and each test a scope: what HTCondor's starter leaves to a job.
 *            The scope's directory, cgroup.procs and cgroup.subtree_control belong to the account, its limits do not.
 * OUT        one line a test: "ok PROGRAM::TEST SECONDS", "skip PROGRAM::TEST: why", "FAIL PROGRAM::TEST: why" and after that
 *            its output behind "# "
 *
 * The environment is handed on, with BAILEY_TEST_CGROUP (the scope, in which the test sits) and BAILEY_SKIP_DIR. Programs
 * *_uids start as root, the others as BAILEY_TEST_USER. What is alive in the scope two seconds after the test has outlived
 * it, which is a failure, as it is for nextest.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 8, LEAK_SECONDS = 2, TAIL = 12000 };

struct worker {
    char test[512];
    char scope[256], said[64], skips[64];
    pid_t pid;    /* 0: no test, or one that has ended */
    int code;     /* of the test that has ended; 128 + N for a signal */
    int late;     /* how often it was told to end */
    double began, ended, next;
    enum { IDLE, RUNS, LINGERS } state;
};
static struct worker workers[WORKERS];
static const char *cgroup, *programs;
static int count, out;
static double seconds;
static uid_t uid;
static gid_t gid;

static void die(const char *what) {
    dprintf(out > 0 ? out : 2, "FAIL runner: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put(const char *dir, const char *file, const char *value) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0) die(path);
    close(fd);
}

static void each_entry(const char *dir, int (*wanted)(const struct dirent *), void (*act)(const char *path, void *with),
                       void *with) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !wanted(e)) continue;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        act(path, with);
    }
    closedir(d);
}
static int is_directory(const struct dirent *e) { return e->d_type == DT_DIR; }
static int is_file(const struct dirent *e) { return e->d_type == DT_REG; }

static ssize_t slurp(const char *path, char *to, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, to, size - 1);
    close(fd);
    if (n >= 0) to[n] = 0;
    return n;
}

/* What is alive in a group and below: "PID (COMMAND LINE) " each, as much as there is room for. */
struct found {
    char text[600];
    int n, signal;
};
static void look(const char *group, void *with) {
    struct found *found = with;
    char path[1100], line[64];
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        int pid = atoi(line);
        char stat[512], command[160];
        if (found->signal) kill(pid, found->signal);
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        if (slurp(path, stat, sizeof stat) <= 0) continue;
        char *end = strrchr(stat, ')');
        if (!end || end[2] == 'Z' || end[2] == 'X') continue;
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        ssize_t n = slurp(path, command, sizeof command);
        for (ssize_t i = 0; i + 1 < n; i++)
            if (!isprint((unsigned char)command[i])) command[i] = ' ';
        size_t used = strlen(found->text);
        snprintf(found->text + used, sizeof found->text - used, "%d (%s) ", pid, n > 0 ? command : "");
        found->n++;
    }
    if (f) fclose(f);
    each_entry(group, is_directory, look, with);
}

static void remove_group(const char *group, void *with) {
    each_entry(group, is_directory, remove_group, with);
    rmdir(group);
}

static void collect(const char *path, void *with) {
    char *reason = with, text[300];
    size_t used = strlen(reason);
    ssize_t n = slurp(path, text, sizeof text);
    for (ssize_t i = 0; i < n; i++)
        if (text[i] == '\n' || text[i] == '\r') text[i] = ' ';
    if (n >= 0) snprintf(reason + used, 600 - used, "%s ", n ? text : "no reason");
}
static void drop(const char *path, void *with) {
    (void)with;
    unlink(path);
}

/* The end of what the test said, each line behind "# ". */
static void quote(const char *path) {
    static char text[TAIL + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    off_t size = lseek(fd, 0, SEEK_END);
    lseek(fd, size > TAIL ? size - TAIL : 0, SEEK_SET);
    ssize_t n = read(fd, text, TAIL);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    for (char *line = text, *end; *line; line = end) {
        end = strchr(line, '\n');
        end = end ? end + 1 : line + strlen(line);
        dprintf(out, "# %.*s\n", (int)(end - line > 600 ? 600 : end - line - (end[-1] == '\n')), line);
    }
}

static int ran(const char *path) {
    static char text[TAIL + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    off_t size = lseek(fd, 0, SEEK_END);
    lseek(fd, size > TAIL ? size - TAIL : 0, SEEK_SET);
    ssize_t n = read(fd, text, TAIL);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, "test result: ok. 1 passed") != NULL;
}

static void start(struct worker *w, int slot) {
    static int number;
    char slice[200], path[512], *split = strstr(w->test, "::");
    if (!split) die("a line of the list without ::");
    snprintf(slice, sizeof slice, "%s/slot1_%d.slice", cgroup, slot + 1);
    snprintf(w->scope, sizeof w->scope, "%s/job_%d_0.scope", slice, ++number);
    if (mkdir(w->scope, 0755)) die(w->scope);
    put(w->scope, "memory.oom.group", "1");
    const char *theirs[] = {"", "/cgroup.procs", "/cgroup.subtree_control"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", w->scope, theirs[i]);
        if (chown(path, uid, gid)) die(path);
    }
    snprintf(w->said, sizeof w->said, "/run/bed/said-%d", slot);
    snprintf(w->skips, sizeof w->skips, "/run/bed/skipped-%d", slot);
    mkdir(w->skips, 0777);
    chmod(w->skips, 0777);
    each_entry(w->skips, is_file, drop, NULL);

    char program[512];
    int name = (int)(split - w->test);
    snprintf(program, sizeof program, "%s/%.*s", programs, name, w->test);
    int as_root = name > 5 && !strncmp(split - 5, "_uids", 5);
    w->began = now();
    w->late = 0;
    w->state = RUNS;
    w->pid = fork();
    if (w->pid < 0) die("fork");
    if (w->pid > 0) return;

    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    put(w->scope, "cgroup.procs", "0");
    setenv("BAILEY_TEST_CGROUP", w->scope, 1);
    setenv("BAILEY_SKIP_DIR", w->skips, 1);
    int null = open("/dev/null", O_RDONLY), said = open(w->said, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    if (null < 0 || said < 0) _exit(98);
    dup2(null, 0);
    dup2(said, 1);
    dup2(said, 2);
    close_range(3, ~0U, 0);
    if (!as_root && (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))) _exit(98);
    execl(program, program, "--exact", split + 2, "--nocapture", (char *)NULL);
    dprintf(2, "%s: %s\n", program, strerror(errno));
    _exit(99);
}

static void reap(void);

/* The test has ended, and so has what it left, or its time is over. */
static void finish(struct worker *w, const struct found *left) {
    char reason[600] = "";
    double took = w->ended - w->began;
    each_entry(w->skips, is_file, collect, reason);
    int failed = 1;
    if (w->late)
        dprintf(out, "FAIL %s: not at its end after %.0f s\n", w->test, took);
    else if (w->code)
        dprintf(out, "FAIL %s: code %d after %.1f s\n", w->test, w->code, took);
    else if (!ran(w->said))
        dprintf(out, "FAIL %s: it did not run\n", w->test);
    else if (left->n)
        dprintf(out, "FAIL %s: outlived by %s\n", w->test, left->text);
    else {
        failed = 0;
        if (*reason)
            dprintf(out, "skip %s: %s\n", w->test, reason);
        else
            dprintf(out, "ok %s %.2f\n", w->test, took);
    }
    if (failed) quote(w->said);
    struct found again = {.signal = SIGKILL};
    for (int turn = 0; turn < 50; turn++) {
        memset(again.text, 0, sizeof again.text);
        again.n = 0;
        look(w->scope, &again);
        reap();
        remove_group(w->scope, NULL);
        if (access(w->scope, F_OK)) break;
        usleep(20000);
    }
    w->state = IDLE;
}

static void turn(struct worker *w) {
    double t = now();
    if (w->state == RUNS && w->pid && t - w->began > seconds + 5 * w->late) {
        kill(-w->pid, w->late ? SIGKILL : SIGTERM);
        w->late++;
    }
    if (w->state != LINGERS || t < w->next) return;
    struct found left = {.signal = 0};
    look(w->scope, &left);
    if (left.n && !w->late && t - w->ended < LEAK_SECONDS)
        w->next = t + 0.2;
    else
        finish(w, &left);
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;)
        for (int i = 0; i < count; i++)
            if (workers[i].state == RUNS && workers[i].pid == pid) {
                workers[i].pid = 0;
                workers[i].code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                workers[i].ended = workers[i].next = now();
                workers[i].state = LINGERS;
            }
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "vm_runner LIST WORKERS SECONDS CGROUP PROGRAMS OUT\n");
        return 2;
    }
    cgroup = argv[4];
    programs = argv[5];
    seconds = atof(argv[3]);
    count = atoi(argv[2]);
    out = open(argv[6], O_WRONLY | O_CLOEXEC | O_NOCTTY);
    FILE *list = fopen(argv[1], "re");
    if (out < 0 || !list || count < 1 || count > WORKERS) die("arguments");
    const char *u = getenv("BED_UID"), *g = getenv("BED_GID");
    if (!u || !g) die("no BED_UID, BED_GID");
    uid = (uid_t)atoi(u);
    gid = (gid_t)atoi(g);
    unsetenv("BED_UID");
    unsetenv("BED_GID");
    mkdir("/run/bed", 0755);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);

    for (int more = 1, busy = 1; more || busy;) {
        busy = 0;
        for (int i = 0; i < count; i++) {
            struct worker *w = &workers[i];
            if (w->state == IDLE && more) {
                more = fgets(w->test, sizeof w->test, list) != NULL;
                if (more) {
                    w->test[strcspn(w->test, "\n")] = 0;
                    start(w, i);
                }
            }
            busy += w->state != IDLE;
        }
        struct timespec tick = {.tv_nsec = 50000000};
        if (busy) sigtimedwait(&child, NULL, &tick);
        reap();
        for (int i = 0; i < count; i++) turn(&workers[i]);
    }
    return 0;
}
