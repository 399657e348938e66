// A socket of the pilot's that gives its secret away to whoever connects, and one that takes datagrams.
#include "attack.h"

UNUSED static int answer(int listener) {
    struct pollfd ends[2] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    int connections = 0;
    for (;;) {
        if (poll(ends, 2, 20000) <= 0 || ends[0].revents) return connections;
        int one = accept(listener, NULL, NULL);
        if (one < 0) return connections;
        connections++;
        if (write(one, SECRET, strlen(SECRET)) < 0) perror("write");
        close(one);
    }
}
UNUSED static int secret_of(int fd, const struct sockaddr *address, socklen_t length) {
    char text[64] = "";
    struct timeval second = {.tv_sec = 1};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    if (connect(fd, address, length)) return 0;
    return read(fd, text, sizeof text - 1) > 0 && !strcmp(text, SECRET);
}
