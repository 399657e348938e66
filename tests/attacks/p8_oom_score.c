// row: P8
// what: out of memory, the kernel takes pilot and payload for the same, and may kill the pilot
// control: plain
// off: sandbox.oom_score_adj = "0"
#include "attack.h"

void pilot(void) {
    const char *score = get("/proc/self/oom_score_adj");
    ready("score=%d", score ? atoi(score) : 0);
}
void attack(void) {
    const char *text = get("/proc/self/oom_score_adj");
    if (!text) cannot("oom_score_adj: %s", errno_name());
    int own = atoi(text), pilots = number("score");
    if (own <= pilots) succeeded("the payload has %d, the pilot %d", own, pilots);
    prevented("the payload has %d, the pilot %d", own, pilots);
}
