// row: K12
// what: the pilot's sockets in /tmp and in its directory, and services in /run
// control: plain
#include "sockets.h"

static struct sockaddr_un address = {.sun_family = AF_UNIX};
void pilot(void) {
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/bailey-attack-%d", getpid());
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4)) cannot("listen: %s", errno_name());
    ready("path=%s", address.sun_path);
    answer(listener);
}
const char *hurt(void) { unlink(address.sun_path); return NULL; }
void attack(void) {
    strncpy(address.sun_path, value("path"), sizeof address.sun_path - 1);
    if (secret_of(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address)) succeeded("connected");
    static const char *const services[] = {"/run/dbus/system_bus_socket", "/run/systemd/private", "/var/run/docker.sock",
        "/run/containerd/containerd.sock"};
    struct stat about;
    for (size_t i = 0; i < sizeof services / sizeof *services; i++)
        if (!stat(services[i], &about)) succeeded("%s is there", services[i]);
    errno = ENOENT;
    prevented("connect: %s", errno_name());
}
