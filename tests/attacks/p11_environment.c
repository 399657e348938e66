// row: P11
// what: the pilot's variables: tokens, and names that change how programs load
// control: plain
#include "attack.h"

static const char *const names[] = {"BEARER_TOKEN", "X509_USER_PROXY", "GCONV_PATH", "BASH_ENV", "LD_LIBRARY_PATH",
    "APPTAINERENV_LD_PRELOAD", "PYTHONSTARTUP", "PERL5OPT", "_CONDOR_JOB_AD", "KRB5CCNAME"};
void launch(void) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) setenv(names[i], "/hostile", 1);
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "HOSTILE_%d", i);
        setenv(name, "/hostile", 1);
    }
}
void attack(void) {
    extern char **environ;
    int count = 0;
    const char *one = "";
    for (char **at = environ; *at; at++)
        if (strstr(*at, "/hostile")) count++, one = *at;
    if (count) succeeded("%d of 210 variables, one is %s", count, one);
    prevented("none of 210 variables");
}
