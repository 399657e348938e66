// row: F11
// what: devices of the host are in /dev
// control: plain
#include "attack.h"

static const char *const usual[] = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"};
static char extra[256];
static int count;
static void look(const char *dir) {
    DIR *open_dir = opendir(dir);
    if (!open_dir) return;
    for (struct dirent *entry; (entry = readdir(open_dir));) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        struct stat about;
        if (lstat(path, &about) || (!S_ISCHR(about.st_mode) && !S_ISBLK(about.st_mode))) continue;
        int known = 0;
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) known |= !strcmp(entry->d_name, usual[i]);
        if (known || (!strcmp(dir, "/dev/pts") && !strcmp(entry->d_name, "ptmx"))) continue;
        if (count++ < 8) snprintf(extra + strlen(extra), sizeof extra - strlen(extra), " %.20s", entry->d_name);
    }
    closedir(open_dir);
}
void attack(void) {
    look("/dev");
    look("/dev/pts");
    look("/dev/net");
    look("/dev/mapper");
    look("/dev/input");
    if (count) succeeded("%d more devices:%s", count, extra);
    prevented("only the usual ones");
}
