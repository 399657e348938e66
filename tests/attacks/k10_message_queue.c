// row: K10
// what: the pilot's POSIX message queue is read
// control: plain
// off: sandbox.ipc_namespace = "off"
#include "attack.h"
#include <mqueue.h>

static char name[64];
void pilot(void) {
    snprintf(name, sizeof name, "/bailey-attack-%d", getpid());
    struct mq_attr sizes = {.mq_maxmsg = 2, .mq_msgsize = 64};
    mqd_t queue = mq_open(name, O_CREAT | O_RDWR, 0600, &sizes);
    if (queue < 0 || mq_send(queue, SECRET, sizeof SECRET, 0)) cannot("mq_open: %s", errno_name());
    ready("queue=%s", name);
}
const char *hurt(void) { mq_unlink(name); return NULL; }
void attack(void) {
    char text[64] = "";
    mqd_t queue = mq_open(value("queue"), O_RDONLY | O_NONBLOCK);
    if (queue >= 0 && mq_receive(queue, text, sizeof text, NULL) > 0 && !strcmp(text, SECRET))
        succeeded("the message was taken away");
    prevented("mq_open: %s", errno_name());
}
