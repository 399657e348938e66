// row: F4
// what: the image has a /proc of its own: a link to files of its maker (CVE-2019-16884, CVE-2025-52881)
// control: naive
// image: own
// refusal: prevented
#include "attack.h"
#include <linux/magic.h>

void image(const char *dir) {
    char path[8192];
    snprintf(path, sizeof path, "%s/elsewhere", dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/elsewhere/self", dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/proc", dir);
    // Absolute: by name it is another directory outside than inside.
    if (symlink("/tmp/../elsewhere", path)) perror(path);
}
void attack(void) {
    struct statfs about;
    struct stat link;
    if (statfs("/proc", &about)) succeeded("there is no proc: %s", errno_name());
    if (about.f_type != PROC_SUPER_MAGIC) succeeded("/proc is a file system of type %#lx", (long)about.f_type);
    if (statfs("/proc/self/attr", &about) == 0 && about.f_type != PROC_SUPER_MAGIC) succeeded("/proc/self is not proc's");
    lstat("/proc", &link);
    prevented("/proc is procfs%s", S_ISLNK(link.st_mode) ? ", through the link" : "");
}
