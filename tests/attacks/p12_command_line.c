// row: P12
// what: secrets on the launcher's command line, seen by the payload
// control: naive
// env: PILOT_TOKEN=hunter2-of-the-pilot
#include "attack.h"

// The payload itself has the variable, so it is in environ; in a command line it is where others see it.
void attack(void) {
    DIR *dir = opendir("/proc");
    if (!dir) cannot("/proc: %s", errno_name());
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!isdigit(entry->d_name[0])) continue;
        char path[300];
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        seen++;
        if (holds(path, SECRET)) succeeded("%s has the pilot's token", path);
    }
    if (!seen) cannot("no process in /proc");
    prevented("%d processes are visible, none shows it", seen);
}
