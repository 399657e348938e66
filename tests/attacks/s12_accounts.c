// row: S12
// what: the names of the host's accounts
// control: plain
#include "attack.h"

void pilot(void) {
    // An account of this host that no image has by chance: the last one of the list.
    const char *text = get("/etc/passwd"), *last = text;
    if (!text) cannot("/etc/passwd: %s", errno_name());
    for (const char *at = text; *at; at++)
        if (*at == '\n' && at[1]) last = at + 1;
    ready("account=%.*s", (int)strcspn(last, ":"), last);
}
void attack(void) {
    char line[128];
    snprintf(line, sizeof line, "%s:", value("account"));
    way("/etc/passwd", holds("/etc/passwd", line));
    way("/etc/group", holds("/etc/group", line));
    judge();
}
