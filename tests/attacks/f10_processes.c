// row: F10
// what: the pilot's process is seen in /proc, with its command line
// control: plain
#include "attack.h"

void attack(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/cmdline", number("pid"));
    const char *line = get(path);
    if (line && strstr(line, "/") && !memcmp(line + strlen(line) + 1, "pilot", 5)) succeeded("%s", path);
    prevented("%s is not the pilot's", path);
}
