/* A client that speaks the recorder's protocol (docs/recorder.md) on its own: it shares no code with bailey, so it is also the
 * second opinion on that document. Each client is a process with a pid namespace of its own; its init forks one payload for
 * each launch, frozen on a pipe, as a launcher's would be.
 *
 *   recorder_load --socket PATH --template FILE [--clients N] [--launches N | --seconds S] [--no-end] [--retry S]
 *                 [--print] [--hold] [--keep-alive]
 *
 *   --template   a payload-launch record (JSON object, one line); @ID@ stands for the launch id
 *   --launches   of each client        --seconds  instead: as many as fit
 *   --retry S    when the connection breaks, come back for S seconds and ask again for the same launch
 *   --print      a line "receipt SEQ HASH ID" for each receipt, at once
 *   --no-end     leave the end of the payload to the recorder
 *   --hold       one launch for each client; then print "held" and wait for the end of standard input
 *
 * At the end one line: "launches N seconds S rate R p50_us A p95_us B max_us C refused D".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, WELCOME = 2, LAUNCH = 3, RECEIPT = 4, REFUSED = 5, NOTE = 6, RESUME = 7, DONE = 8 };
enum { HEADER = 16, MOST = 128 * 1024 + HEADER, NAMESPACES = 7, SAMPLES = 1 << 20 };
static const char *KINDS[NAMESPACES] = {"user", "mnt", "pid", "ipc", "uts", "net", "cgroup"};

static const char *socket_path, *template_path;
static int clients = 1, launches = 100, ends = 1, retry, print, hold;
static double seconds;
static char *before_id, *after_id;

struct shared {
    _Atomic uint64_t done, refused, sample_count;
    uint32_t samples[SAMPLES]; /* microseconds */
};
static struct shared *shared;

static void die(const char *what) {
    fprintf(stderr, "recorder_load: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* ---- packets ---- */

static int transmit(int fd, const void *bytes, size_t length, const int *fds, int count) {
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * 16)];
    } control;
    struct iovec iov = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.room;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

/* Receives one message with up to `most` descriptors; its length, 0 at the end. */
static ssize_t take(int fd, void *bytes, size_t room, int *fds, int most) {
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * 16)];
    } control;
    struct iovec iov = {bytes, room};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    int index = 0;
    if (got >= 0)
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h))
            if (h->cmsg_type == SCM_RIGHTS)
                for (size_t i = 0; i < (h->cmsg_len - CMSG_LEN(0)) / sizeof(int) && index < most; i++)
                    memcpy(&fds[index++], CMSG_DATA(h) + i * sizeof(int), sizeof(int));
    return got;
}

static void put(char *packet, int kind, uint32_t length, uint32_t serial) {
    uint16_t version = 1, number = kind;
    memcpy(packet, "BLY1", 4);
    memcpy(packet + 4, &version, 2);
    memcpy(packet + 6, &number, 2);
    memcpy(packet + 8, &length, 4);
    memcpy(packet + 12, &serial, 4);
}

static uint32_t serial;

/* Asks; the kind of the answer, its body in `body` (NUL-terminated); -1 when the connection broke. */
static int ask(int fd, int kind, char *packet, size_t length, const int *fds, int count, char *body) {
    uint32_t mine = ++serial, theirs;
    put(packet, kind, length, mine);
    if (transmit(fd, packet, HEADER + length, fds, count) < 0) return -1;
    static char answer[MOST + 1];
    do {
        int none[16];
        ssize_t got = take(fd, answer, MOST, none, 0);
        if (got < HEADER) return -1;
        memcpy(&theirs, answer + 12, 4);
        uint16_t number;
        memcpy(&number, answer + 6, 2);
        if (theirs == mine || (theirs == 0 && number == REFUSED)) {
            answer[got] = 0;
            if (body) strcpy(body, answer + HEADER);
            return number;
        }
    } while (1);
}

/* ---- the tree ---- */

static int init_socket = -1, init_pidfd = -1, gate = -1, namespaces[NAMESPACES];

static void drop_everything(void) {
    for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {}
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}, {0}};
    if (syscall(SYS_capset, &header, data) < 0) die("capset");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("no_new_privs");
}

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) die(path);
    close(fd);
}

static int frozen_gate;

/* The payload: nothing but system calls, because its memory is init's. */
static int frozen(void *unused) {
    (void)unused;
    char byte = 1;
    ssize_t got = syscall(SYS_read, frozen_gate, &byte, 1);
    syscall(SYS_exit, got == 1 ? byte : 1);
    return 1;
}

static void init_main(int commands, int gate_end, unsigned uid, unsigned gid) {
    char line[64];
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", line);
    int fds[NAMESPACES];
    for (int i = 0; i < NAMESPACES; i++) {
        snprintf(line, sizeof line, "/proc/self/ns/%s", KINDS[i]);
        if ((fds[i] = open(line, O_RDONLY | O_CLOEXEC)) < 0) die(line);
    }
    if (transmit(commands, "n", 1, fds, NAMESPACES) < 0) die("send namespaces");
    for (int i = 0; i < NAMESPACES; i++) close(fds[i]);
    drop_everything();
    signal(SIGCHLD, SIG_IGN); /* payloads are reaped by the kernel */
    char byte;
    while (read(commands, &byte, 1) == 1) {
        int pidfd = -1;
        /* It shares init's memory, as a launcher's payload does until its execve: a copy would cost more than the launch. */
        static char stack[16384] __attribute__((aligned(16)));
        frozen_gate = gate_end;
        pid_t pid = clone(frozen, stack + sizeof stack, CLONE_VM | CLONE_PIDFD | SIGCHLD, NULL, &pidfd);
        if (pid < 0 || transmit(commands, "p", 1, &pidfd, 1) < 0) _exit(1);
        close(pidfd);
    }
    _exit(0);
}

static void make_tree(void) {
    int pair[2], pipes[2];
    unsigned uid = geteuid(), gid = getegid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) die("socketpair");
    if (pipe2(pipes, O_CLOEXEC) < 0) die("pipe");
    int pidfd = -1;
    pid_t pid = syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_PIDFD | SIGCHLD, 0, &pidfd, 0, 0);
    if (pid < 0) die("clone");
    if (pid == 0) {
        close(pair[0]);
        close(pipes[1]);
        init_main(pair[1], pipes[0], uid, gid);
    }
    close(pair[1]);
    close(pipes[0]);
    init_socket = pair[0], init_pidfd = pidfd, gate = pipes[1];
    char byte;
    if (take(init_socket, &byte, 1, namespaces, NAMESPACES) != 1) die("namespaces");
}

static int new_payload(void) {
    char byte = 'n';
    int pidfd = -1;
    if (write(init_socket, &byte, 1) != 1 || take(init_socket, &byte, 1, &pidfd, 1) != 1) die("payload");
    return pidfd;
}

static void end_payload(int pidfd) {
    char code = 0;
    struct pollfd wait = {.fd = pidfd, .events = POLLIN};
    if (write(gate, &code, 1) != 1) die("gate");
    while (poll(&wait, 1, 5000) < 0 && errno == EINTR) {}
    if (!(wait.revents & POLLIN)) {
        errno = ETIMEDOUT;
        die("the payload did not end");
    }
}

/* ---- one launch ---- */

static void launch_id(char out[27]) {
    static const char *alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    unsigned __int128 bits = (unsigned __int128)(t.tv_sec * 1000ULL + t.tv_nsec / 1000000) << 80;
    uint8_t random[10];
    if (getentropy(random, sizeof random) < 0) die("getentropy");
    for (int i = 0; i < 10; i++) bits |= (unsigned __int128)random[i] << (72 - 8 * i);
    for (int i = 0; i < 26; i++) out[i] = alphabet[(unsigned)(bits >> (125 - 5 * i)) & 31];
    out[26] = 0;
}

static int dial(void) {
    static char packet[4096];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int length = snprintf(packet + HEADER, sizeof packet - HEADER,
                          "{\"oldest\":1,\"newest\":1,\"program\":\"recorder_load 1\"}");
    int answer = -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        answer = ask(fd, HELLO, packet, length, &program, program >= 0, NULL);
    close(program);
    if (answer == WELCOME) return fd;
    close(fd);
    return -1;
}

static int dial_for(double until) {
    int fd;
    while ((fd = dial()) < 0) {
        if (now() >= until) return -1;
        usleep(2000);
    }
    return fd;
}

static const char *member(const char *json, const char *name) {
    const char *at = strstr(json, name);
    return at ? at + strlen(name) : "";
}

static char packet[MOST], body[MOST];

/* The receipt of one launch; 0 when it was refused, -1 when the recorder stayed away. */
static int one_launch(int *fd, const char *id, int pidfd, uint64_t *seq, char hash[65]) {
    int fds[2 + NAMESPACES] = {pidfd, init_pidfd};
    memcpy(fds + 2, namespaces, sizeof namespaces);
    double until = now() + retry;
    for (;;) {
        if (*fd < 0 && (*fd = dial_for(until)) < 0) return -1;
        int length = snprintf(packet + HEADER, sizeof packet - HEADER,
                              "{\"id\":\"%s\",\"namespaces\":[\"user\",\"mnt\",\"pid\",\"ipc\",\"uts\",\"net\",\"cgroup\"],"
                              "\"record\":%s%s%s}",
                              id, before_id, id, after_id);
        double begin = now();
        int answer = ask(*fd, LAUNCH, packet, length, fds, 2 + NAMESPACES, body);
        if (answer == RECEIPT) {
            uint64_t at = shared->sample_count++;
            if (at < SAMPLES) shared->samples[at] = (now() - begin) * 1e6;
            *seq = strtoull(member(body, "\"seq\":"), NULL, 10);
            snprintf(hash, 65, "%.64s", member(body, "\"hash\":\""));
            return 1;
        }
        if (answer == REFUSED) {
            if (!shared->refused++) fprintf(stderr, "recorder_load: refused: %s\n", body);
            if (!retry) return 0;
            usleep(20000);
        }
        close(*fd);
        *fd = -1;
        if (now() >= until) return -1;
    }
}

static void one_end(int *fd, const char *id, uint64_t seq, const char *hash) {
    double until = now() + retry;
    for (;;) {
        if (*fd < 0) {
            if ((*fd = dial_for(until)) < 0) return;
            int length = snprintf(packet + HEADER, sizeof packet - HEADER, "{\"id\":\"%s\",\"seq\":%llu,\"hash\":\"%s\"}", id,
                                  (unsigned long long)seq, hash);
            if (ask(*fd, RESUME, packet, length, NULL, 0, body) == REFUSED) return; /* it is closed already */
        }
        int length = snprintf(
            packet + HEADER, sizeof packet - HEADER,
            "{\"id\":\"%s\",\"record\":{\"event\":{\"id\":\"%s\",\"action\":\"payload-end\",\"kind\":\"event\",\"category\":[\"process\"],"
            "\"type\":[\"end\"],\"outcome\":\"success\",\"duration\":1000000,\"reason\":\"the payload ended: it exited with code 0\"},"
            "\"ecs\":{\"version\":\"9.4.0\"},\"process\":{\"exit_code\":0},\"grid\":{\"end\":{\"by\":\"payload\"},\"usage\":{\"source\":\"rusage\","
            "\"cpu_user_us\":1000,\"cpu_system_us\":1000,\"memory_peak_bytes\":1048576}}}}",
            id, id);
        int answer = ask(*fd, NOTE, packet, length, NULL, 0, body);
        if (answer == DONE || answer == REFUSED) return;
        close(*fd);
        *fd = -1;
        if (now() >= until) return;
    }
}

static void client(double begin) {
    make_tree();
    for (int count = 0; seconds > 0 ? now() - begin < seconds : count < launches; count++) {
        char id[27], hash[65] = "";
        uint64_t seq = 0;
        launch_id(id);
        int fd = dial_for(now() + retry), pidfd = new_payload();
        int got = one_launch(&fd, id, pidfd, &seq, hash);
        if (got > 0) {
            shared->done++;
            if (print) {
                char line[160];
                int length = snprintf(line, sizeof line, "receipt %llu %s %s\n", (unsigned long long)seq, hash, id);
                if (write(1, line, length) != length) die("stdout");
            }
            if (hold) {
                char byte;
                if (write(1, "held\n", 5) != 5) die("stdout");
                while (read(0, &byte, 1) > 0) {}
            }
        }
        end_payload(pidfd);
        if (got > 0 && ends) one_end(&fd, id, seq, hash);
        close(fd);
        close(pidfd);
        if (got < 0 || hold) break;
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void read_template(void) {
    static char text[MOST];
    FILE *file = fopen(template_path, "r");
    if (!file || !fgets(text, sizeof text, file)) die(template_path);
    fclose(file);
    text[strcspn(text, "\n")] = 0;
    char *at = strstr(text, "@ID@");
    if (!at) {
        errno = EINVAL;
        die("the template has no @ID@");
    }
    *at = 0;
    before_id = text, after_id = at + 4;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--socket")) socket_path = value, i++;
        else if (!strcmp(argv[i], "--template")) template_path = value, i++;
        else if (!strcmp(argv[i], "--clients")) clients = atoi(value), i++;
        else if (!strcmp(argv[i], "--launches")) launches = atoi(value), i++;
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(value), i++;
        else if (!strcmp(argv[i], "--retry")) retry = atoi(value), i++;
        else if (!strcmp(argv[i], "--print")) print = 1;
        else if (!strcmp(argv[i], "--no-end")) ends = 0;
        else if (!strcmp(argv[i], "--hold")) hold = 1;
        else {
            fprintf(stderr, "recorder_load: unknown option %s\n", argv[i]);
            return 2;
        }
    }
    if (!socket_path || !template_path) {
        fprintf(stderr, "usage: recorder_load --socket PATH --template FILE [...]\n");
        return 2;
    }
    read_template();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) die("mmap");
    double begin = now();
    for (int i = 0; i < clients; i++) {
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
            client(begin);
            _exit(0);
        }
    }
    int bad = 0, status;
    while (wait(&status) > 0) bad += status != 0;
    double took = now() - begin;
    uint64_t count = shared->sample_count < SAMPLES ? shared->sample_count : SAMPLES;
    qsort(shared->samples, count, sizeof *shared->samples, by_size);
    unsigned p50 = count ? shared->samples[count / 2] : 0, p95 = count ? shared->samples[count * 95 / 100] : 0;
    unsigned most = count ? shared->samples[count - 1] : 0;
    printf("launches %llu seconds %.2f rate %.0f p50_us %u p95_us %u max_us %u refused %llu\n",
           (unsigned long long)shared->done, took, shared->done / took, p50, p95, most,
           (unsigned long long)shared->refused);
    return bad > 0;
}
