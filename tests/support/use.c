/* What a payload does to use known amounts of what is limited and counted. Words are done in their order; each says "NAME done".
 *
 *   memory MIB      touches so much anonymous memory and keeps it
 *   spin MS         uses so much CPU time
 *   forks N         has N children at one time; says how many there are, and ends them after a line on stdin or 300 ms
 *   write FILE MIB  writes to the disk, past the page cache where the file system can do that
 *   read MIB        reads from /dev/zero
 *   bomb            forks for ever
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void done(const char *what) {
    printf("%s done\n", what);
    fflush(stdout);
}

static void die(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    fflush(stdout);
    exit(9);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "memory")) {
            size_t size = (size_t)atol(argv[++i]) << 20;
            char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (at == MAP_FAILED) die(word);
            for (size_t n = 0; n < size; n += 4096) at[n] = 1;
        } else if (!strcmp(word, "spin")) {
            long most = atol(argv[++i]);
            struct timespec now;
            do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
            while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < most);
        } else if (!strcmp(word, "forks")) {
            int most = atoi(argv[++i]), n = 0;
            for (; n < most; n++) {
                pid_t pid = fork();
                if (pid < 0) break;
                if (pid == 0) {
                    pause();
                    _exit(0);
                }
            }
            printf("%d children\n", n);
            fflush(stdout);
            usleep(300000);
        } else if (!strcmp(word, "write")) {
            const char *name = argv[++i];
            long left = atol(argv[++i]);
            int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0600);
            if (fd < 0 && errno == EINVAL) fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
            void *block;
            if (fd < 0 || posix_memalign(&block, 4096, 1 << 20)) die(word);
            memset(block, 7, 1 << 20);
            for (; left > 0; left--)
                if (write(fd, block, 1 << 20) != 1 << 20) die(word);
            if (fsync(fd)) die(word);
            close(fd);
            free(block);
        } else if (!strcmp(word, "read")) {
            long left = atol(argv[++i]);
            int fd = open("/dev/zero", O_RDONLY);
            char *block = malloc(1 << 20);
            for (; left > 0; left--)
                if (read(fd, block, 1 << 20) != 1 << 20) die(word);
            close(fd);
            free(block);
        } else if (!strcmp(word, "bomb")) {
            for (;;) fork();
        } else {
            errno = EINVAL;
            die(word);
        }
        done(word);
    }
    return 0;
}
