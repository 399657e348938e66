// row: K10
// what: the pilot's System V shared memory is read and removed
// control: plain
// off: sandbox.ipc_namespace = "off"
#include "attack.h"
#include <sys/shm.h>

static int id;
void pilot(void) {
    long key = 0x0bad0000 + getpid() % 65536;
    id = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600);
    char *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
    if (at == (void *)-1) cannot("shmget: %s", errno_name());
    strcpy(at, SECRET);
    ready("key=%ld", key);
}
const char *hurt(void) {
    struct shmid_ds about;
    int gone = shmctl(id, IPC_STAT, &about) || about.shm_perm.mode & SHM_DEST;
    if (!gone) shmctl(id, IPC_RMID, NULL);
    return gone ? "the pilot's shared memory was removed" : NULL;
}
void attack(void) {
    int found = shmget(number("key"), 0, 0);
    char *at = found < 0 ? (void *)-1 : shmat(found, NULL, SHM_RDONLY);
    way("read", at != (void *)-1 && !strcmp(at, SECRET));
    way("remove", found >= 0 && shmctl(found, IPC_RMID, NULL) == 0);
    judge();
}
