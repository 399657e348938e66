// A sandbox made without thinking: namespaces, mounts by path, chroot. The control of attacks that need a sandbox to break.
//
//   naive IMAGE [--bind SRC:DST[:rw]]... [--env NAME=VALUE]... -- COMMAND...
#define NO_MAIN
#include "attack.h"

static char root[4096];

// DIR and all above it, by name, following every link, as mkdir -p does.
static void make_all(const char *path) {
    char part[8192];
    snprintf(part, sizeof part, "%s", path);
    for (char *at = part + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(part, 0755);
            *at = '/';
        }
    mkdir(part, 0755);
}
static void bind_to(const char *source, const char *target, int writable) {
    struct stat about;
    if (stat(source, &about)) { perror(source); exit(99); }
    if (S_ISDIR(about.st_mode)) make_all(target);
    else if (access(target, F_OK)) close(open(target, O_WRONLY | O_CREAT, 0644));
    if (mount(source, target, NULL, MS_BIND | MS_REC, NULL)) { perror(target); return; }
    if (writable) return;
    // Read-only, but not what is mounted below; flags are kept where the kernel would refuse otherwise.
    struct statfs mounted;
    unsigned long flags = statfs(target, &mounted) ? 0 : mounted.f_flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME);
    if (mounted.f_flags & 0x1000) flags |= MS_RELATIME; // ST_RELATIME is another number
    if (mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | flags, NULL)) { perror(target); exit(99); }
}
static const char *at_root(const char *path) {
    static char whole[8192];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    return whole;
}

int main(int argc, char **argv) {
    if (argc < 4) return 99;
    int command = 1;
    while (argv[command] && strcmp(argv[command], "--")) command++;
    snprintf(root, sizeof root, "%s", argv[1]);
    if (own_namespace(CLONE_NEWNS | CLONE_NEWPID, 0, 0)) { perror("namespaces"); return 99; }
    pid_t first = fork();
    if (first) {
        int status = 0;
        waitpid(first, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (mount(root, root, NULL, MS_BIND | MS_REC, NULL)) { perror(root); return 99; }
    make_all(at_root("/tmp"));
    mount("tmp", at_root("/tmp"), "tmpfs", 0, NULL);
    mkdir(at_root("/dev"), 0755);
    static const char *const devices[] = {"/dev/null", "/dev/zero"};
    for (int i = 0; i < 2; i++) {
        if (access(at_root(devices[i]), F_OK)) close(open(at_root(devices[i]), O_WRONLY | O_CREAT, 0666));
        mount(devices[i], at_root(devices[i]), NULL, MS_BIND, NULL);
    }
    clearenv();
    for (int i = 2; i + 1 < command; i += 2) {
        if (!strcmp(argv[i], "--env")) putenv(argv[i + 1]);
        else {
            char *source = strdup(argv[i + 1]), *target = strchr(source, ':'), *mode;
            *target++ = 0;
            if ((mode = strchr(target, ':'))) *mode++ = 0;
            bind_to(source, at_root(target), mode && !strcmp(mode, "rw"));
        }
    }
    mkdir(at_root("/proc"), 0555);
    mount("proc", at_root("/proc"), "proc", 0, NULL);
    if (chroot(root) || chdir("/")) { perror("chroot"); return 99; }
    // Process 1, and the payload as its child.
    pid_t payload = fork();
    if (payload == 0) {
        execv(argv[command + 1], argv + command + 1);
        perror(argv[command + 1]);
        _exit(99);
    }
    int status = 0;
    while (waitpid(payload, &status, 0) < 0 && errno == EINTR) {}
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}
