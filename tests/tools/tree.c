/* For tests that talk to the recorder themselves: makes an init and frozen payloads as children of whoever called this
 * program (CLONE_PARENT), as a launcher would, and hands over their descriptors on descriptor 3, a SOCK_SEQPACKET socket.
 *
 *   tree payloads COUNT   first message: pidfd of init, seven namespace files; then one pidfd of a payload in each
 *   tree hang SOCKET      hands the recorder files of a FUSE file system that answers nothing but what leads to open(2):
 *                         whoever holds such a file waits at its next exec, so nobody else may. One byte when it is done
 *   tree linger           one socket whose last close waits
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MUST(x) ({ long r_ = (long)(x); if (r_ < 0) { perror(#x); _exit(99); } r_; })
enum { OUT = 3 };

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

static void send_fds(int to, const int *fds, int count) {
    char control[CMSG_SPACE(16 * sizeof(int))], byte = '!';
    memset(control, 0, sizeof control);
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    MUST(sendmsg(to, &message, MSG_NOSIGNAL));
}

static void payload(int ready) {
    for (int number = 0; prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0; number++) {}
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    MUST(syscall(SYS_capset, &header, none));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(write(ready, "!", 1));
    close(OUT);
    for (;;) pause();
}

static void init(unsigned uid, unsigned gid, int count) {
    static const char *const kinds[] = {"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"};
    int fds[8], ready[2];
    char path[64], byte;
    map_ids(uid, gid);
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    MUST(pipe(ready));
    fds[0] = MUST(syscall(SYS_pidfd_open, getpid(), 0));
    for (int i = 0; i < 7; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        fds[1 + i] = MUST(open(path, O_RDONLY | O_CLOEXEC));
    }
    send_fds(OUT, fds, 8);
    for (int i = 0; i < count; i++) {
        int pid = MUST(fork());
        if (pid == 0) payload(ready[1]);
        MUST(read(ready[0], &byte, 1));
        int fd = MUST(syscall(SYS_pidfd_open, pid, 0));
        send_fds(OUT, &fd, 1);
        close(fd);
    }
    close(OUT);
    for (;;)
        if (wait(NULL) < 0) pause();
}

static void fuse_answer(int device, uint64_t unique, const void *body, size_t length) {
    char packet[512];
    struct fuse_out_header header = {.len = sizeof header + length, .unique = unique};
    memcpy(packet, &header, sizeof header);
    if (length) memcpy(packet + sizeof header, body, length);
    MUST(write(device, packet, header.len));
}

static void fuse_serve(int device) {
    static char request[1 << 18];
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

static void say(int to, int kind, const char *body, int *fds, int count) {
    char packet[1024];
    uint32_t length = strlen(body), serial = 7;
    uint16_t header[2] = {1, kind};
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    memcpy(packet, "BLY1", 4);
    memcpy(packet + 4, header, 4);
    memcpy(packet + 8, &length, 4);
    memcpy(packet + 12, &serial, 4);
    memcpy(packet + 16, body, length);
    struct iovec iov = {packet, 16 + length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(part), fds, count * sizeof(int));
    MUST(sendmsg(to, &message, MSG_NOSIGNAL));
}

static int dial(const char *path) {
    int fd = MUST(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    strncpy(at.sun_path, path, sizeof at.sun_path - 1);
    MUST(connect(fd, (void *)&at, sizeof at));
    return fd;
}

/* Every way to hand a descriptor over, and one connection that is closed with messages unread. */
static void hand_over(const char *path, int file) {
    static const char hello[] = "{\"oldest\":1,\"newest\":1,\"program\":\"x\"}";
    static const char launch[] = "{\"id\":\"01JD000000000000000000000A\",\"namespaces\":[\"user\",\"pid\"],\"record\":"
        "{\"event\":{\"action\":\"payload-launch\",\"kind\":\"event\",\"category\":[],\"type\":[]},\"ecs\":{\"version\":\"9\"}}}";
    char answer[4096];
    int fds[4] = {file, file, file, file};
    int first = dial(path);
    say(first, 1, hello, fds, 1);
    MUST(recv(first, answer, sizeof answer, 0));
    say(first, 3, launch, fds, 4);
    MUST(recv(first, answer, sizeof answer, 0));
    say(first, 10, "{}", fds, 2);
    MUST(recv(first, answer, sizeof answer, 0));
    int second = dial(path);
    say(second, 10, "{}", fds, 1);
    say(second, 10, "{}", fds, 1);
    close(second);
    int third = dial(path);
    say(third, 1, hello, fds, 4);
    close(third);
}

/* The server stays in this process, which the caller kills; the opener keeps the file open until then. */
static void hang(const char *path) {
    const char *device = getenv("BAILEY_TEST_FUSE");
    unsigned uid = getuid(), gid = getgid();
    char options[64];
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    map_ids(uid, gid);
    int fuse = MUST(open(device ? device : "/dev/fuse", O_RDWR | O_CLOEXEC));
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse, uid, gid);
    MUST(mount("hang", "/mnt", "fuse", MS_NOSUID | MS_NODEV, options));
    if (MUST(fork()) == 0) {
        MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
        close(fuse);
        int file = MUST(open("/mnt/file", O_RDONLY | O_CLOEXEC));
        hand_over(path, file);
        MUST(write(OUT, "!", 1));
        for (;;) pause();
    }
    close(OUT);
    fuse_serve(fuse);
}

static void linger(void) {
    int server = MUST(socket(AF_INET, SOCK_STREAM, 0)), client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof at;
    struct linger option = {1, 20};
    static char data[1 << 16];
    MUST(bind(server, (void *)&at, sizeof at));
    MUST(listen(server, 1));
    MUST(getsockname(server, (void *)&at, &length));
    MUST(connect(client, (void *)&at, sizeof at));
    MUST(accept(server, NULL, NULL));
    MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &option, sizeof option));
    while (send(client, data, sizeof data, MSG_DONTWAIT) > 0) {}
    send_fds(OUT, &client, 1);
    close(client); /* the receiver's is the last copy */
    for (;;) pause();
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "payloads") == 0) {
        unsigned uid = getuid(), gid = getgid();
        int flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PARENT | SIGCHLD;
        if (MUST(syscall(SYS_clone, flags, 0, 0, 0, 0)) == 0) init(uid, gid, atoi(argv[2]));
        return 0;
    }
    MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    alarm(60);
    if (argc > 2 && strcmp(argv[1], "hang") == 0) hang(argv[2]);
    if (argc > 1 && strcmp(argv[1], "linger") == 0) linger();
    return 2;
}
