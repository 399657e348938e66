/* The floor of the benchmark: the least that a launcher with bailey's default namespaces can do. One clone3 into new
 * user, mount, pid, ipc, uts and cgroup namespaces, a 1:1 id map, the image bound, /proc mounted, pivot_root, the old
 * root off, exec as pid 1. No /dev, no tmpfs, no environment, no capabilities dropped, no record.
 *
 *   floor IMAGE COMMAND [ARG...]        COMMAND is an absolute path inside IMAGE
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
		_exit(125);
	}
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t len = (ssize_t)strlen(text);

	check(fd >= 0 && write(fd, text, (size_t)len) == len, path);
	close(fd);
}

static void child(char **argv, unsigned uid, unsigned gid)
{
	char map[64];

	snprintf(map, sizeof map, "%u %u 1\n", uid, uid);
	put("/proc/self/uid_map", map);
	put("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "%u %u 1\n", gid, gid);
	put("/proc/self/gid_map", map);

	check(mount(argv[1], argv[1], NULL, MS_BIND | MS_REC, NULL) == 0, "bind the image");
	check(chdir(argv[1]) == 0, "enter the image");
	check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0, "mount proc");
	/* The new root is stacked on the old one, so "." is what umount2 takes off: pivot_root(2), NOTES. */
	check(syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root");
	check(umount2(".", MNT_DETACH) == 0, "take the old root off");
	check(chdir("/") == 0, "chdir /");
	execv(argv[2], argv + 2);
	check(0, argv[2]);
}

int main(int argc, char **argv)
{
	struct clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP,
		.exit_signal = SIGCHLD,
	};
	unsigned uid = geteuid(), gid = getegid();
	int status;
	pid_t pid;

	if (argc < 3) {
		fprintf(stderr, "usage: floor IMAGE COMMAND [ARG...]\n");
		return 125;
	}
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	check(pid >= 0, "clone3");
	if (pid == 0)
		child(argv, uid, gid);
	check(waitpid(pid, &status, 0) == pid, "waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
