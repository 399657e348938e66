// row: P9
// what: capabilities in some set, or an unlocked way back to them (CVE-2022-29162)
// control: naive
#include "attack.h"
#include <linux/securebits.h>

void attack(void) {
    const char *status = get("/proc/self/status");
    if (!status) cannot("no /proc/self/status: %s", errno_name());
    static const char *const sets[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
    int nothing = 1;
    for (int i = 0; i < 5; i++) {
        char name[16];
        unsigned long long caps = 0;
        snprintf(name, sizeof name, "\n%s:", sets[i]);
        const char *at = strstr(status, name);
        if (at) sscanf(at + strlen(name), "%llx", &caps);
        // In the naive sandbox these two are empty anyway.
        if (i == 0 || i == 4) nothing = nothing && !caps;
        else errno = 0, way(sets[i], caps != 0);
    }
    errno = 0;
    if (!nothing) way("CapInh-or-CapAmb", 1);
    int bits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0);
    way("unlocked-securebits", !(bits & SECBIT_NOROOT_LOCKED) || !(bits & SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
    way("no_new_privs-off", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    judge();
}
