// row: P5
// what: umask 000 is inherited, so that everybody can write the payload's files
// control: plain
#include "attack.h"

void launch(void) { umask(0); }
void attack(void) {
    char name[] = "/tmp/umask-XXXXXX";
    if (!mkdtemp(name) || chdir(name)) cannot("no directory: %s", errno_name());
    close(open("file", O_WRONLY | O_CREAT, 0666));
    struct stat about;
    if (stat("file", &about)) cannot("no file: %s", errno_name());
    unlink("file");
    rmdir(name);
    if (about.st_mode & 022) succeeded("a new file has mode %o", about.st_mode & 0777);
    prevented("a new file has mode %o", about.st_mode & 0777);
}
