// row: K11
// what: the pilot's services on abstract sockets (CVE-2020-15257)
// control: plain
// off: sandbox.landlock = "off"
#include "sockets.h"

static struct sockaddr_un named(const char *name, socklen_t *length) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
    *length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    return address;
}
static int datagrams = -1;
void pilot(void) {
    char name[64];
    socklen_t length;
    snprintf(name, sizeof name, "bailey-attack-%d", getpid());
    struct sockaddr_un address = named(name, &length);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4)) cannot("listen: %s", errno_name());
    strcat(name, "-d");
    address = named(name, &length);
    datagrams = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (bind(datagrams, (struct sockaddr *)&address, length)) cannot("bind: %s", errno_name());
    ready("pid=%d", getpid());
    answer(listener);
}
const char *hurt(void) {
    char text[8];
    return recv(datagrams, text, sizeof text, 0) > 0 ? "a datagram came" : NULL;
}
void attack(void) {
    char name[64];
    socklen_t length;
    snprintf(name, sizeof name, "bailey-attack-%ld", number("pid"));
    struct sockaddr_un address = named(name, &length);
    way("connect", secret_of(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, length));
    strcat(name, "-d");
    address = named(name, &length);
    way("sendto", sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, (struct sockaddr *)&address, length) == 1);
    judge();
}
