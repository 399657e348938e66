/* What a process finds around itself, one fact a line ("name value"), so that two launchers can be compared. Static: it runs in
 * an image without anything else.
 *
 *   facts [WORD...]         all facts
 *   facts exit N            ends with the exit code N
 *   facts kill N            kills itself with the signal N
 *   facts ready             says "ready", waits for the end by a signal
 *   facts catch N           says "ready", says "caught N" at the signal N and ends with the exit code 3
 *   facts child             the same, and leaves a child in a session of its own that ignores signals
 *
 * The facts stand between the lines "facts begin" and "facts end". Bytes outside of printable ASCII, and "\", are written \xHH.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void escaped(const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c > 0x7e || c == '\\') {
            printf("\\x%02x", c);
        } else {
            putchar(c);
        }
    }
}

static void fact(const char *group, const char *name, const char *value) {
    escaped(group);
    if (*name) {
        putchar('.');
        escaped(name);
    }
    putchar(' ');
    escaped(value);
    putchar('\n');
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The names in a directory, sorted; "-" and the error where it cannot be read. */
static void listed(const char *directory, int most) {
    static char *names[4096];
    static char line[65536];
    int count = 0;
    DIR *d = opendir(directory);
    if (d == NULL) {
        snprintf(line, sizeof line, "-%s", strerrorname_np(errno));
        fact("list", directory, line);
        return;
    }
    for (struct dirent *e = readdir(d); e != NULL && count < 4096; e = readdir(d)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            names[count++] = strdup(e->d_name);
        }
    }
    closedir(d);
    qsort(names, (size_t)count, sizeof names[0], by_text);
    line[0] = 0;
    for (int i = 0; i < count; i++) {
        if (i == most) {
            strcat(line, "...");
            break;
        }
        if (strlen(line) + strlen(names[i]) + 8 < sizeof line) {
            strcat(line, names[i]);
            if (i + 1 < count) strcat(line, " ");
        }
    }
    fact("list", directory, line);
}

/* Whether a file can be made there; the attempt is undone. */
static void written(const char *directory) {
    char path[4200];
    snprintf(path, sizeof path, "%s/.facts-%d", directory, (int)getpid());
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) {
        fact("write", directory, "no");
        return;
    }
    close(fd);
    unlink(path);
    fact("write", directory, "yes");
}

static void mode_of(const char *path) {
    struct stat s;
    char line[64];
    if (lstat(path, &s) != 0) {
        fact("mode", path, strerrorname_np(errno));
        return;
    }
    const char *kind = S_ISDIR(s.st_mode) ? "dir" : S_ISREG(s.st_mode) ? "file" : S_ISLNK(s.st_mode) ? "link" : S_ISCHR(s.st_mode) ? "char" : "other";
    snprintf(line, sizeof line, "%s %04o", kind, s.st_mode & 07777);
    fact("mode", path, line);
}

/* FNV-1a of a file: the same file or not. */
static void sum_of(const char *path) {
    unsigned long long sum = 14695981039346656037ULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC), length = 0;
    unsigned char block[4096];
    char line[32];
    if (fd < 0) {
        fact("sum", path, strerrorname_np(errno));
        return;
    }
    while ((length = (int)read(fd, block, sizeof block)) > 0) {
        for (int i = 0; i < length; i++) sum = (sum ^ block[i]) * 1099511628211ULL;
    }
    close(fd);
    snprintf(line, sizeof line, "%016llx", sum);
    fact("sum", path, line);
}

/* The line of a file of accounts whose third field is this number. */
static void account(const char *group, const char *path, unsigned id) {
    char line[1024], copy[1024];
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        fact(group, "", strerrorname_np(errno));
        return;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = 0;
        snprintf(copy, sizeof copy, "%s", line);
        strtok(copy, ":");
        strtok(NULL, ":");
        const char *number = strtok(NULL, ":");
        if (number != NULL && strtoul(number, NULL, 10) == id) {
            fact(group, "", line);
            fclose(f);
            return;
        }
    }
    fclose(f);
    fact(group, "", "none");
}

static void descriptors(void) {
    char name[32], value[64];
    for (int fd = 0; fd < 256; fd++) {
        struct stat s;
        if (fstat(fd, &s) != 0) continue;
        const char *kind = S_ISFIFO(s.st_mode) ? "pipe" : S_ISREG(s.st_mode) ? "file" : S_ISSOCK(s.st_mode) ? "socket"
            : S_ISDIR(s.st_mode) ? "dir" : S_ISCHR(s.st_mode) ? "char" : "other";
        if (S_ISCHR(s.st_mode) && s.st_rdev == makedev(1, 3)) kind = "null";
        if (isatty(fd)) kind = "tty";
        snprintf(name, sizeof name, "%d", fd);
        snprintf(value, sizeof value, "%s", kind);
        fact("fd", name, value);
    }
}

static void mounts(void) {
    static char line[16384];
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (f == NULL) return;
    while (fgets(line, sizeof line, f) != NULL) {
        char *save = NULL;
        char *fields[64];
        int count = 0;
        for (char *word = strtok_r(line, " \n", &save); word != NULL && count < 64; word = strtok_r(NULL, " \n", &save)) fields[count++] = word;
        int dash = 6;
        while (dash < count && strcmp(fields[dash], "-") != 0) dash++;
        if (dash + 3 >= count + 1) continue;
        const char *options = fields[5], *super = dash + 3 < count ? fields[dash + 3] : "";
        int ro = strncmp(options, "ro", 2) == 0 || strcmp(super, "ro") == 0 || strncmp(super, "ro,", 3) == 0;
        fact("mount", fields[4], ro ? "ro" : "rw");
    }
    fclose(f);
}

static void status(void) {
    char line[1024];
    FILE *f = fopen("/proc/self/status", "re");
    if (f == NULL) return;
    while (fgets(line, sizeof line, f) != NULL) {
        static const char *wanted[] = {"NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "CapInh", "CapAmb", "SigBlk", "SigIgn", NULL};
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; wanted[i] != NULL; i++) {
            size_t length = strlen(wanted[i]);
            if (strncmp(line, wanted[i], length) == 0 && line[length] == ':') fact("status", wanted[i], line + length + 2);
        }
    }
    fclose(f);
}

static void facts(int argc, char **argv) {
    char text[4200], name[32];
    puts("facts begin");
    for (int i = 0; i < argc; i++) {
        snprintf(name, sizeof name, "%d", i);
        fact("arg", name, argv[i]);
    }
    fact("cwd", "", getcwd(text, sizeof text) != NULL ? text : strerrorname_np(errno));
    for (char **e = environ; *e != NULL; e++) {
        char *equals = strchr(*e, '=');
        if (equals == NULL) continue;
        char *key = strndup(*e, (size_t)(equals - *e));
        fact("env", key, equals + 1);
        free(key);
    }
    snprintf(text, sizeof text, "%u %u", getuid(), getgid());
    fact("id", "", text);
    gid_t groups[256];
    int count = getgroups(256, groups), at = 0;
    text[0] = 0;
    for (int i = 0; i < count; i++) at += snprintf(text + at, sizeof text - (size_t)at, "%s%u", i ? " " : "", groups[i]);
    fact("groups", "", text);
    mode_t mask = umask(0);
    umask(mask);
    snprintf(text, sizeof text, "%04o", mask);
    fact("umask", "", text);
    struct utsname names;
    uname(&names);
    fact("hostname", "", names.nodename);
    static const char *namespaces[] = {"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"};
    for (int i = 0; i < 7; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", namespaces[i]);
        ssize_t length = readlink(path, text, sizeof text - 1);
        text[length < 0 ? 0 : length] = 0;
        fact("ns", namespaces[i], length < 0 ? strerrorname_np(errno) : text);
    }
    /* Those that it sees: itself and those above it, or the whole machine. */
    int processes = 0;
    DIR *proc = opendir("/proc");
    if (proc != NULL) {
        for (struct dirent *e = readdir(proc); e != NULL; e = readdir(proc)) processes += e->d_name[0] >= '1' && e->d_name[0] <= '9';
        closedir(proc);
    }
    fact("processes", "", processes == 0 ? "none" : processes < 10 ? "few" : "many");
    fact("session", "", getsid(0) == getpid() ? "leader" : getsid(0) == 0 ? "outside" : "member");
    fact("group", "", getpgrp() == getpid() ? "leader" : getpgrp() == 0 ? "outside" : "member");
    int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
    fact("tty", "", tty >= 0 ? "yes" : strerrorname_np(errno));
    if (tty >= 0) close(tty);
    account("passwd", "/etc/passwd", getuid());
    account("etc-group", "/etc/group", getgid());
    descriptors();
    status();
    mounts();
    const char *home = getenv("HOME");
    static const char *places[] = {"/", "/tmp", "/var/tmp", "/home", "/dev", "/dev/shm", "/run", "/etc", "/srv", "/cvmfs", "/scratch", "/alrb",
        "/workdir", "/data", NULL};
    for (int i = 0; places[i] != NULL; i++) {
        struct stat s;
        if (stat(places[i], &s) != 0) continue;
        if (strcmp(places[i], "/etc") != 0) listed(places[i], 200);
        written(places[i]);
        mode_of(places[i]);
    }
    if (home != NULL && access(home, F_OK) == 0) {
        printf("home-");
        listed(home, 200);
        printf("home-");
        written(home);
    }
    printf("cwd-");
    listed(".", 200);
    printf("cwd-");
    written(".");
    static const char *same[] = {"/etc/hosts", "/etc/resolv.conf", "/etc/localtime", "/etc/hostname", NULL};
    for (int i = 0; same[i] != NULL; i++) sum_of(same[i]);
    struct stat s;
    fact("sys", "", stat("/sys/class", &s) == 0 ? "yes" : strerrorname_np(errno));
    fact("shm", "", access("/dev/shm", W_OK) == 0 ? "yes" : strerrorname_np(errno));
    puts("facts end");
}

static int caught;
static void on_signal(int number) { caught = number; }

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (argc == 3 && strcmp(argv[1], "exit") == 0) return atoi(argv[2]);
    if (argc == 3 && strcmp(argv[1], "kill") == 0) {
        kill(getpid(), atoi(argv[2]));
        pause();
    }
    if (argc == 3 && strcmp(argv[1], "catch") == 0) {
        struct sigaction action = {.sa_handler = on_signal};
        sigset_t held, before;
        sigemptyset(&held);
        sigaddset(&held, atoi(argv[2]));
        sigprocmask(SIG_BLOCK, &held, &before);
        sigaction(atoi(argv[2]), &action, NULL);
        puts("ready");
        fflush(stdout);
        while (!caught) sigsuspend(&before);
        printf("caught %d\n", caught);
        return 3;
    }
    if (argc == 2 && (strcmp(argv[1], "ready") == 0 || strcmp(argv[1], "child") == 0)) {
        if (argv[1][0] == 'c' && fork() == 0) {
            setsid();
            for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
        } else {
            puts("ready");
            fflush(stdout);
        }
        for (;;) pause();
    }
    facts(argc, argv);
    return 0;
}
