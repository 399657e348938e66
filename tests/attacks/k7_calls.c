// row: K7
// what: calls that batch work does not need and exploits do: perf, userfaultfd, kcmp, keys, page moving
// control: plain
// off: sandbox.seccomp = "off"
// kernel: bpf kexec_load init_module acct reboot swapon syslog quotactl fanotify userfaultfd iopl kcmp: the host's root may alone, or not built in
#include "attack.h"

#define ALONE(name, ...) static long name(void) { return syscall(__VA_ARGS__); }
// Each reaches the kernel's own code: an answer about its arguments is an answer of that code.
static int by_kernel(long result) { return result >= 0 || (errno != EPERM && errno != ENOSYS && errno != EACCES); }
static void probe(const char *name, long result) {
    int reached_it = by_kernel(result);
    way(name, reached_it);
}
void attack(void) {
    long pid = getpid();
    probe("bpf", syscall(SYS_bpf, 0, NULL, 0));
    probe("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    probe("userfaultfd", syscall(SYS_userfaultfd, 1 /* user mode only */));
    probe("fanotify", syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, 0));
    probe("kcmp", syscall(SYS_kcmp, pid, pid, 0, 0, 0));
    probe("move_pages", syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0));
    probe("migrate_pages", syscall(SYS_migrate_pages, 0, 0, NULL, NULL));
    probe("add_key", syscall(SYS_add_key, NULL, NULL, NULL, 0, 0));
    probe("request_key", syscall(SYS_request_key, NULL, NULL, NULL, 0));
    probe("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    probe("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    probe("init_module", syscall(SYS_init_module, NULL, 0, ""));
    probe("acct", syscall(SYS_acct, NULL));
    probe("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    probe("swapon", syscall(SYS_swapon, NULL, 0));
    probe("syslog", syscall(SYS_syslog, 10, NULL, 0));
    probe("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
#ifdef SYS_modify_ldt
    char table[16];
    probe("modify_ldt", syscall(SYS_modify_ldt, 0, table, sizeof table));
    probe("iopl", syscall(SYS_iopl, 3));
#endif
    judge();
}
