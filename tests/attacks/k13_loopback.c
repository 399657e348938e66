// row: K13
// what: services on 127.0.0.1
// control: plain
// network: none
// off: --network host
#include "sockets.h"
#include <arpa/inet.h>
#include <netinet/in.h>

void pilot(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4)) cannot("listen: %s", errno_name());
    getsockname(listener, (struct sockaddr *)&address, &length);
    ready("port=%d", ntohs(address.sin_port));
    answer(listener);
}
void attack(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons(number("port"));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (secret_of(fd, (struct sockaddr *)&address, sizeof address)) succeeded("connected");
    prevented("connect: %s", errno_name());
}
