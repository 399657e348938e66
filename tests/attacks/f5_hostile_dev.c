// row: F5
// what: the image's /dev/null is a link or a file, so that masks and redirections go there (CVE-2025-31133)
// control: naive
// image: own
// refusal: prevented
#include "attack.h"
#include <sys/sysmacros.h>

void image(const char *dir) {
    char path[8192];
    snprintf(path, sizeof path, "%s/dev", dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/dev/null", dir);
    if (symlink("/dev/caught", path)) perror(path);
    snprintf(path, sizeof path, "%s/dev/zero", dir);
    if (symlink(in_dir("victim"), path)) perror(path);
    put(in_dir("victim"), "");
}
void attack(void) {
    struct stat about;
    static const struct { const char *name; unsigned minor; } devices[] = {{"/dev/null", 3}, {"/dev/zero", 5}};
    for (int i = 0; i < 2; i++) {
        int real = lstat(devices[i].name, &about) == 0 && S_ISCHR(about.st_mode)
            && about.st_rdev == makedev(1, devices[i].minor);
        errno = 0;
        way(devices[i].name, !real);
    }
    judge();
}
