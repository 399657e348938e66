/* A launcher of its own making, for the tests of what the recorder observes: makes init and payload as bailey does, hands
 * their descriptors to whoever listens, and lies as it is told.
 *
 *   launcher SOCKET LIE [PID PID]
 *
 * The message is "PAYLOAD INIT" (pids, the payload's as /proc and the init's as the launcher numbers it) with pidfds of both and seven namespace files. It stays
 * until the other end closes; with it everything that it made ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(x) ({ long r_ = (long)(x); if (r_ < 0) { perror(#x); _exit(99); } r_; })
enum { PAYLOAD, INIT, USER, MNT, PID, IPC, UTS, NET, CGROUP, ALL };
static const char *lie;
static int is(const char *name) { return strcmp(lie, name) == 0; }

static void write_file(const char *path, const char *text) {
    int fd = MUST(open(path, O_WRONLY));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void map_ids(unsigned uid, unsigned gid) {
    char line[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", line);
}

static void send_bytes(int to, const void *bytes, size_t length, const int *fds, int count) {
    char control[CMSG_SPACE(253 * sizeof(int))];
    memset(control, 0, sizeof control);
    struct iovec iov = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    MUST(sendmsg(to, &message, MSG_NOSIGNAL));
}

static void send_fds(int to, const char *text, const int *fds, int count) {
    send_bytes(to, text, strlen(text) + 1, fds, count);
}

static int receive_fds(int from, int *fds, int most) {
    char control[CMSG_SPACE(16 * sizeof(int))], text[64];
    struct iovec iov = {text, sizeof text};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (MUST(recvmsg(from, &message, 0)) == 0) { fprintf(stderr, "the sandbox failed\n"); _exit(98); }
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (count > most) _exit(97);
    memcpy(fds, CMSG_DATA(header), count * sizeof(int));
    return count;
}

static int pidfd_open_(int pid, int flags) { return syscall(SYS_pidfd_open, pid, flags); }

static int pid_of(int pidfd) {
    char path[64], line[128];
    int pid = -2;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "Pid: %d", &pid);
    if (file) fclose(file);
    return pid;
}

static void give_up_rights(void) {
    if (!is("bounding"))
        for (int number = 0; prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0; number++) {}
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    if (is("capable")) none[0].permitted = 1 << CAP_NET_RAW; /* the effective set does not show it */
    MUST(syscall(SYS_capset, &header, none));
    if (!is("privileges")) MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void die_with_parent(void) {
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    alarm(60); /* whose parent had died already */
}

static void payload(int ready) {
    die_with_parent();
    give_up_rights();
    prctl(PR_SET_NAME, "a) S 1 (b\nUid:");
    MUST(write(ready, "!", 1));
    for (;;) pause();
}

static void init(int up, unsigned uid, unsigned gid, int flags) {
    static const char *const files[] = {"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"};
    int fds[ALL], ready[2];
    char path[64];
    if (flags & CLONE_NEWUSER) map_ids(uid, gid);
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    MUST(pipe(ready));
    if (is("shallow") || is("deeper")) {
        MUST(unshare(CLONE_NEWPID));
        if (MUST(fork()) == 0) for (;;) pause(); /* the first process of the deeper namespace */
    }
    for (int i = 0; i < 7; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", is("deeper") && i == 2 ? "pid_for_children" : files[i]);
        fds[USER + i] = MUST(open(path, O_RDONLY | O_CLOEXEC));
    }
    int pid;
    if (is("shallow") || is("deeper")) {
        /* the same number in both namespaces, which only who owns them can choose */
        pid_t wanted[2] = {5, 5};
        struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)wanted, .set_tid_size = 2};
        pid = MUST(syscall(SYS_clone3, &args, sizeof args));
        if (pid == 0) payload(ready[1]);
        pid = 5;
    } else {
        pid = MUST(fork());
        if (pid == 0) {
            if (is("grandchild")) {
                int child = MUST(fork());
                if (child == 0) payload(ready[1]);
                int fd = MUST(pidfd_open_(child, 0));
                send_fds(up, "grandchild", &fd, 1);
                for (;;) pause();
            }
            payload(ready[1]);
        }
    }
    char byte;
    MUST(read(ready[0], &byte, 1));
    fds[PAYLOAD] = MUST(is("shallow") || is("deeper") ? pidfd_open_(5, 0) : pidfd_open_(pid, is("thread") ? O_EXCL : 0));
    fds[INIT] = MUST(pidfd_open_(getpid(), 0));
    MUST(prctl(PR_SET_DUMPABLE, 0));
    send_fds(up, "made", fds, ALL);
    for (;;) {
        if (is("zombie")) pause();
        if (wait(NULL) < 0) pause();
    }
}

/* Fills fds; returns the init's pid. */
static int make(int *fds) {
    int ends[2], flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    unsigned uid = getuid(), gid = getgid();
    if (is("same-pid-namespace")) flags &= ~CLONE_NEWPID;
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    int pid = MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        close(ends[0]);
        init(ends[1], uid, gid, flags);
    }
    close(ends[1]);
    if (receive_fds(ends[0], fds, ALL) == 1) { /* whichever of the two was faster */
        int grandchild = fds[0];
        receive_fds(ends[0], fds, ALL);
        fds[PAYLOAD] = grandchild;
    } else if (is("grandchild")) {
        receive_fds(ends[0], fds, 1);
    }
    return pid;
}

/* A file whose fstat, read and close never come back while the server below lives: it answers only what leads to open(2). */
static void fuse_answer(int device, uint64_t unique, const void *body, size_t length) {
    char packet[512];
    struct fuse_out_header header = {.len = sizeof header + length, .unique = unique};
    memcpy(packet, &header, sizeof header);
    if (length) memcpy(packet + sizeof header, body, length);
    MUST(write(device, packet, header.len));
}

static void fuse_serve(int device) {
    static char request[1 << 18];
    alarm(20); /* whoever hangs is let go then, whatever happened to the launcher */
    for (;;) {
        if (read(device, request, sizeof request) < 0) _exit(0);
        struct fuse_in_header *in = (void *)request;
        if (in->opcode == FUSE_INIT) {
            struct fuse_init_out out = {.major = 7, .minor = 31, .max_write = 4096};
            fuse_answer(device, in->unique, &out, sizeof out);
        } else if (in->opcode == FUSE_LOOKUP) {
            struct fuse_entry_out out = {.nodeid = 2, .attr = {.ino = 2, .mode = S_IFREG | 0755, .nlink = 1, .size = 4096}};
            fuse_answer(device, in->unique, &out, sizeof out);
        } else if (in->opcode == FUSE_OPEN) {
            struct fuse_open_out out = {.fh = 1};
            fuse_answer(device, in->unique, &out, sizeof out);
        }
    }
}

static int server;

static int hanging_file(void) {
    const char *device = getenv("BAILEY_TEST_FUSE");
    int ends[2], fd;
    unsigned uid = getuid(), gid = getgid();
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    server = MUST(fork());
    if (server == 0) {
        char options[64];
        close(ends[0]);
        MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
        map_ids(uid, gid);
        int fuse = MUST(open(device ? device : "/dev/fuse", O_RDWR | O_CLOEXEC));
        snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse, uid, gid);
        MUST(mount("hang", "/mnt", "fuse", MS_NOSUID | MS_NODEV, options));
        if (MUST(fork()) == 0) {
            MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
            alarm(20);
            close(fuse);
            int file = MUST(open("/mnt/file", O_RDONLY | O_CLOEXEC));
            send_fds(ends[1], "file", &file, 1);
            for (;;) pause(); /* its own copy is closed when it dies, and waits for the server's end */
        }
        close(ends[1]);
        fuse_serve(fuse);
    }
    close(ends[1]);
    receive_fds(ends[0], &fd, 1);
    return fd;
}

static int other_child(void) {
    int launcher = getpid(), pid = MUST(fork());
    if (pid == 0) {
        die_with_parent();
        while (getppid() == launcher) pause();
        _exit(0);
    }
    return MUST(pidfd_open_(pid, 0));
}

/* A socket whose last close waits for data that nobody takes. */
static int lingering_socket(void) {
    int server = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), client = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    struct linger linger = {1, 20};
    static char data[1 << 16];
    MUST(bind(server, (void *)&at, sizeof at));
    MUST(listen(server, 1));
    MUST(getsockname(server, (void *)&at, &length));
    MUST(connect(client, (void *)&at, sizeof at));
    MUST(accept(server, NULL, NULL));
    MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    while (send(client, data, sizeof data, MSG_DONTWAIT) > 0) {}
    return client;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    lie = argv[2];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getenv("DEEP")) { /* in a container: a pid namespace of its own */
        unsigned uid = getuid(), gid = getgid();
        MUST(unshare(CLONE_NEWUSER | CLONE_NEWPID));
        map_ids(uid, gid);
        int pid = MUST(fork());
        if (pid) {
            int status;
            MUST(waitpid(pid, &status, 0));
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    }
    int socket_ = MUST(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strncpy(at.sun_path, argv[1], sizeof at.sun_path - 1);
    MUST(connect(socket_, (void *)&at, sizeof at));

    int fds[253], count = ALL, initial = 0;
    char text[64] = "0 0";
    if (is("hello-hanging")) { /* to a recorder: its program is a file that hangs */
        char packet[128] = "BLY1\1\0\1\0"; /* version 1, kind 1 */
        uint32_t words[2] = {snprintf(packet + 16, sizeof packet - 16, "{\"oldest\":1,\"newest\":1,\"program\":\"x\"}"), 1};
        memcpy(packet + 8, words, sizeof words);
        fds[0] = hanging_file();
        send_bytes(socket_, packet, 16 + words[0], fds, 1);
        char byte;
        while (read(0, &byte, 1) > 0) {} /* until the test has seen enough */
        kill(server, SIGKILL);
        return 0;
    }
    if (is("file-only") || is("linger-only")) {
        fds[0] = is("file-only") ? hanging_file() : lingering_socket();
        count = 1;
    } else {
        if (is("middle")) {
            int ends[2];
            MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
            if (MUST(fork()) == 0) {
                die_with_parent();
                make(fds);
                send_fds(ends[1], "made", fds, ALL);
                for (;;) pause();
            }
            receive_fds(ends[0], fds, ALL);
        } else {
            initial = make(fds);
        }
        snprintf(text, sizeof text, "%d %d", pid_of(fds[PAYLOAD]), initial);
        if (is("second")) { /* a pid namespace of another sandbox */
            int others[ALL];
            make(others);
            fds[PID] = others[PID];
        }
        if (is("second-user")) {
            int others[ALL];
            make(others);
            fds[USER] = others[USER];
        }
        if (is("second-mnt")) {
            int others[ALL];
            make(others);
            fds[MNT] = others[MNT];
        }
        if (is("own-pid-namespace")) fds[PID] = MUST(open("/proc/self/ns/pid", O_RDONLY));
        if (is("own-user-namespace")) fds[USER] = MUST(open("/proc/self/ns/user", O_RDONLY));
        if (is("self")) fds[PAYLOAD] = MUST(pidfd_open_(getpid(), 0));
        if (is("init-as-payload")) fds[PAYLOAD] = fds[INIT];
        if (is("process-one")) fds[PAYLOAD] = MUST(pidfd_open_(1, 0));
        if (is("other-child")) fds[PAYLOAD] = other_child();
        if (is("other-init")) fds[INIT] = other_child();
        if (is("launcher-as-init")) fds[INIT] = MUST(pidfd_open_(getpid(), 0));
        if (is("foreign") || is("foreign-payload")) {
            fds[PAYLOAD] = MUST(pidfd_open_(atoi(argv[3]), 0));
            if (is("foreign")) fds[INIT] = MUST(pidfd_open_(atoi(argv[4]), 0));
        }
        if (is("dead") || is("zombie")) {
            MUST(syscall(SYS_pidfd_send_signal, fds[PAYLOAD], SIGKILL, NULL, 0));
            struct pollfd ended = {fds[PAYLOAD], POLLIN, 0};
            MUST(poll(&ended, 1, 10000));
            for (int i = 0; is("dead") && i < 1000 && pid_of(fds[PAYLOAD]) > 0; i++) usleep(10000);
        }
        if (is("null")) fds[PAYLOAD] = MUST(open("/dev/null", O_RDWR));
        if (is("socket")) fds[PAYLOAD] = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        if (is("eventfd")) fds[PAYLOAD] = MUST(eventfd(0, 0));
        if (is("memfd")) fds[USER] = MUST(memfd_create("user:[4026531837]", 0));
        if (is("file")) { /* its path ends like the name of a namespace */
            MUST(chdir(getenv("TMPDIR")));
            fds[USER] = MUST(open("user:[4026531837]", O_RDWR | O_CREAT, 0600));
        }
        if (is("swapped")) { int other = fds[MNT]; fds[MNT] = fds[IPC]; fds[IPC] = other; }
        if (is("few")) count--;
        if (is("many")) while (count < 253) fds[count++] = MUST(open("/dev/null", O_RDWR));
        if (is("hanging")) fds[PAYLOAD] = hanging_file();
    }
    send_fds(socket_, text, fds, count);
    if (is("linger-only")) close(fds[0]); /* the receiver's is the last copy */
    char byte;
    while (recv(socket_, &byte, 1, 0) > 0) {}
    if (server) kill(server, SIGKILL); /* or the end of this process would wait for it */
    return 0;
}
