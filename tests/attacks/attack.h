// What every attack shares: how it is called, how it says what happened, and small helpers.
//
//   PROGRAM image DIR                       makes a hostile root directory (rows with "image: own")
//   PROGRAM pilot NAME=VALUE...             outside, as the pilot: prepares, prints "READY NAME=VALUE...", stays until its
//                                           standard input ends, then prints "UNHURT" or "HURT why"
//   PROGRAM launch NAME=VALUE... -- COMMAND what the launcher inherits is made here; becomes COMMAND
//   PROGRAM attack NAME=VALUE...            inside: the attack. The last line on standard error says what happened
//
// A program defines the functions of the phases that it has. The head of each file is read by tests/attacks.rs:
//
//   row: ID...            rows of docs/threat-model.md
//   what: TEXT            the attack, in a few words, for the table
//   control: plain        without any sandbox, as the same user, the attack must succeed
//            naive        with naive.c, a sandbox made without thinking
//            kernel: WHY  the kernel itself prevents it here, and that is looked at too
//   kernel: NAME...: WHY  of a program that tries many ways: these the control need not reach
//   off: KEY=VALUE        with this in the configuration, bailey lets it through: the wall is the one that is meant
//   option: WORD...       options of bailey exec
//   bind: SRC:DST[:rw]    handed over by every launcher; {dir} is the pilot's directory
//   env: NAME=VALUE       set by every launcher's option
//   network: none         likewise
//   image: own            the root directory is the one that the program makes
//   open: WHY             bailey does not prevent it, says so in docs/threat-model.md, and a test would notice if it did
//   refusal: prevented    a launcher that refuses this launch has prevented the attack
#ifndef ATTACK_H
#define ATTACK_H
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

// The phases; a program defines those that it has.
void image(const char *dir) __attribute__((weak));
void pilot(void) __attribute__((weak));
const char *hurt(void) __attribute__((weak)); // 0: the pilot is as it was
void launch(void) __attribute__((weak));
void attack(void);

#define UNUSED __attribute__((unused))

// Codes that no launcher uses for itself.
enum { SUCCEEDED = 40, PREVENTED, CANNOT, KERNEL };

UNUSED static _Noreturn void tell(int code, const char *word, const char *format, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    dprintf(2, "%s: %s\n", word, text);
    _exit(code);
}
#define TELLER(name, code)                                                             \
    UNUSED __attribute__((format(printf, 1, 2))) static _Noreturn void name(const char *format, ...) { \
        va_list arguments;                                                             \
        va_start(arguments, format);                                                   \
        tell(code, #name, format, arguments);                                          \
    }
TELLER(succeeded, SUCCEEDED) // the payload got what it must not get
TELLER(prevented, PREVENTED)
TELLER(cannot, CANNOT)       // it could not be tried
TELLER(kernel, KERNEL)       // the kernel prevents it here, sandbox or not

UNUSED static const char *errno_name(void) {
    const char *name = strerrorname_np(errno);
    return name ? name : "0";
}

// NAME=VALUE of the command line.
static char **values;
UNUSED static const char *optional(const char *name) {
    size_t length = strlen(name);
    for (char **at = values; *at && strcmp(*at, "--"); at++)
        if (!strncmp(*at, name, length) && (*at)[length] == '=') return *at + length + 1;
    return NULL;
}
UNUSED static const char *value(const char *name) {
    const char *found = optional(name);
    if (!found) cannot("no value %s=", name);
    return found;
}
UNUSED static long number(const char *name) { return strtol(value(name), NULL, 0); }
// A path in the pilot's directory.
UNUSED static const char *in_dir(const char *name) {
    static char path[8][4096];
    static int next;
    char *into = path[next++ % 8];
    snprintf(into, 4096, "%s/%s", value("dir"), name);
    return into;
}

// Ways that are tried one after the other.
static char reached[2048], refused[2048];
UNUSED static void way(const char *name, int works) {
    char *list = works ? reached : refused;
    size_t used = strlen(list), size = sizeof reached;
    if (works) snprintf(list + used, size - used, "%s%s", used ? ", " : "", name);
    else snprintf(list + used, size - used, "%s%s%s%s", used ? ", " : "", name, errno ? " " : "", errno ? errno_name() : "");
}
// Tries `f` in a child, so that what it changes is gone again and a crash ends only the child.
UNUSED static void apart(const char *name, long (*f)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        errno = 0;
        alarm(3);
        long result = f();
        _exit(result >= 0 ? 0 : errno ? errno : 255);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
    way(name, errno == 0);
}
UNUSED static _Noreturn void judge(void) {
    if (*reached && *refused) succeeded("%s; refused: %s", reached, refused);
    if (*reached) succeeded("%s", reached);
    prevented("%s", refused);
}

UNUSED static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    int failed = write(fd, text, strlen(text)) < 0;
    int error = errno;
    close(fd);
    errno = error;
    return failed ? -1 : 0;
}
// The start of a file, 0 when it cannot be read or is empty.
UNUSED static const char *get(const char *path) {
    static char text[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return NULL;
    ssize_t got = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    errno = got < 0 ? error : ENODATA;
    if (got <= 0) return NULL;
    text[got] = 0;
    return text;
}
UNUSED static int holds(const char *path, const char *secret) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return 0;
    static char text[65536];
    ssize_t got = read(fd, text, sizeof text);
    close(fd);
    if (got < 0) return 0;
    errno = ENODATA;
    return memmem(text, got, secret, strlen(secret)) != NULL;
}
#define SECRET "hunter2-of-the-pilot"

__attribute__((format(printf, 1, 2))) UNUSED static void ready(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("READY ");
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
}

// A user namespace with every capability in it. `inner` is the uid that the caller has there.
UNUSED static int own_namespace(int flags, int inner_uid, int inner_gid) {
    char map[64];
    int uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER | flags)) return -1;
    if (put("/proc/self/setgroups", "deny")) return -1;
    snprintf(map, sizeof map, "%d %d 1", inner_uid, uid);
    if (put("/proc/self/uid_map", map)) return -1;
    snprintf(map, sizeof map, "%d %d 1", inner_gid, gid);
    return put("/proc/self/gid_map", map);
}
// Mounts of the pilot's own: after this mount(2) works, until back().
static int outer_uid, outer_gid;
UNUSED static void own_mounts(void) {
    outer_uid = geteuid(), outer_gid = getegid();
    if (own_namespace(CLONE_NEWNS, 0, 0)) cannot("no mount namespace for the pilot: %s", errno_name());
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) cannot("private: %s", errno_name());
}
UNUSED static void back(void) {
    if (own_namespace(0, outer_uid, outer_gid)) cannot("back to the ordinary uid: %s", errno_name());
}

#ifndef NO_MAIN
int main(int argc, char **argv) {
    if (argc < 2) return 99;
    const char *phase = argv[1];
    values = argv + 2;
    if (!strcmp(phase, "attack")) {
        alarm(8);
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        attack();
        cannot("the attack does not say what happened");
    }
    if (!strcmp(phase, "image")) {
        if (image) image(argv[2]);
        // The rest is as launchers expect it.
        static const char *const usual[] = {"bin", "dev", "etc", "proc", "run", "sys", "tmp", "var", "var/tmp"};
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
            char path[8192];
            snprintf(path, sizeof path, "%s/%s", argv[2], usual[i]);
            mkdir(path, 0755);
        }
        return 0;
    }
    if (!strcmp(phase, "launch")) {
        int at = 2;
        while (argv[at] && strcmp(argv[at], "--")) at++;
        if (!argv[at]) return 99;
        if (launch) launch();
        execvp(argv[at + 1], argv + at + 1);
        perror(argv[at + 1]);
        return 99;
    }
    if (strcmp(phase, "pilot")) return 99;
    // The pilot is over when the runner is.
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (pilot) pilot();
    else ready("pid=%d", getpid());
    char buffer[64];
    ssize_t got;
    while ((got = read(0, buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {}
    const char *why = hurt ? hurt() : NULL;
    if (why) printf("HURT %s\n", why);
    else printf("UNHURT\n");
    return 0;
}
#endif
#endif
