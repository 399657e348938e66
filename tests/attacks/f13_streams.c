// row: F13
// what: the pilot's log behind standard output is opened again, read and cut off
// control: plain
// off: options
// option: --stdio relay
#include "attack.h"

#define LOG "what the pilot wrote before: hunter2-of-the-pilot\n"
void pilot(void) {
    put(in_dir("log"), LOG);
    ready("pid=%d", getpid());
}
const char *hurt(void) {
    struct stat about;
    if (!holds(in_dir("log"), SECRET)) return "the pilot's log was cut off";
    return stat(in_dir("log"), &about) || about.st_mode & 077 ? "everybody may read the pilot's log" : NULL;
}
void launch(void) {
    int log = open(in_dir("log"), O_RDWR | O_APPEND);
    dup2(log, 1);
    int input = open(in_dir("log"), O_RDONLY);
    dup2(input, 0);
    if (log > 2) close(log);
    if (input > 2) close(input);
}
void attack(void) {
    char text[256] = "";
    way("read-descriptor", pread(1, text, sizeof text - 1, 0) > 0 && strstr(text, SECRET));
    int again = open("/proc/self/fd/1", O_RDWR);
    way("open-again", again >= 0 && pread(again, text, sizeof text - 1, 0) > 0 && strstr(text, SECRET));
    int input = open("/proc/self/fd/0", O_WRONLY);
    way("write-input", input >= 0 && pwrite(input, "x", 1, 0) == 1);
    way("truncate", ftruncate(1, 0) == 0);
    // A pipe has a mode too, which nobody minds: the pilot looks at its log's.
    if (fchmod(1, 0666)) way("mode", 0);
    judge();
}
