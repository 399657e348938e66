// row: K9
// what: the pilot's keys in its session and user keyrings
// control: plain
#include "attack.h"
#include <linux/keyctl.h>

static long key(int operation, long a, long b, long c, long d) { return syscall(SYS_keyctl, operation, a, b, c, d); }
void launch(void) {
    if (key(KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) < 0) kernel("no keyrings: %s", errno_name());
    static const int rings[] = {KEY_SPEC_SESSION_KEYRING, KEY_SPEC_USER_KEYRING};
    for (int i = 0; i < 2; i++)
        if (syscall(SYS_add_key, "user", "bailey-attack", SECRET, strlen(SECRET), rings[i]) < 0)
            cannot("add_key: %s", errno_name());
}
static void search(const char *name, long ring) {
    char secret[128] = "";
    long found = key(KEYCTL_SEARCH, ring, (long)"user", (long)"bailey-attack", 0);
    way(name, found >= 0 && key(KEYCTL_READ, found, (long)secret, sizeof secret - 1, 0) >= 0 && !strcmp(secret, SECRET));
}
void attack(void) {
    // What is linked below the session is possessed, and so may be read.
    key(KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_SESSION_KEYRING, 0, 0);
    search("session", KEY_SPEC_SESSION_KEYRING);
    search("user", KEY_SPEC_USER_KEYRING);
    judge();
}
