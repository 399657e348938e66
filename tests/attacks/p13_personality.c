// row: P13
// what: a personality without address randomisation is inherited
// control: plain
#include "attack.h"
#include <sys/personality.h>

void launch(void) {
    if (personality(ADDR_NO_RANDOMIZE) < 0) cannot("personality: %s", errno_name());
}
void attack(void) {
    int now = personality(0xffffffff);
    if (now > 0) succeeded("personality %#x", now);
    prevented("personality %#x", now);
}
