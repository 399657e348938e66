/* Whether a payload runs at native speed: the same work inside and outside, in turns.
 *
 *   native work DIR                                  the worker: a line with a task's name in, nanoseconds out
 *   native compare ROUNDS ---COMMAND... ---COMMAND...  starts two workers and gives each task to one after the other
 *
 * The workers live through all rounds, so no launch is in the times. In each round every task is done by both; which is first
 * changes from round to round. Prints per task, tab-separated: TASK, median microseconds of the first, of the second, and the
 * median of the ratios second/first of the rounds.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *const TASKS[] = { "fork+exec", "stat", "open+close", "read", "getppid", "compile" };
enum { COUNT = sizeof TASKS / sizeof *TASKS, FILES = 64, MOST_ROUNDS = 2000 };

static void fail(const char *what)
{
	fprintf(stderr, "native: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Files that both sides see under the same path. */
static char *files[FILES];
static int file_count;

static void find_files(void)
{
	DIR *dir = opendir("/usr/bin");
	if (!dir)
		fail("/usr/bin");
	for (struct dirent *entry; file_count < FILES && (entry = readdir(dir));) {
		char path[512];
		struct stat found;
		snprintf(path, sizeof path, "/usr/bin/%s", entry->d_name);
		if (lstat(path, &found) == 0 && S_ISREG(found.st_mode) && found.st_size >= 65536 && access(path, R_OK) == 0)
			files[file_count++] = strdup(path);
	}
	closedir(dir);
	if (file_count < 8)
		fail("too few files in /usr/bin");
}

static void run(char *const argv[])
{
	pid_t pid;
	int status;
	if ((errno = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ)))
		fail(argv[0]);
	if (waitpid(pid, &status, 0) != pid || status != 0) {
		errno = ECHILD;
		fail(argv[0]);
	}
}

static void work(const char *task)
{
	static char buffer[16384];
	if (!strcmp(task, "fork+exec")) {
		char *const argv[] = { "/bin/true", NULL };
		for (int i = 0; i < 20; i++)
			run(argv);
	} else if (!strcmp(task, "stat")) {
		struct stat found;
		for (int i = 0; i < 10000; i++)
			if (stat(files[i % file_count], &found) != 0)
				fail("stat");
	} else if (!strcmp(task, "open+close")) {
		for (int i = 0; i < 5000; i++) {
			int fd = open(files[i % file_count], O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				fail("open");
			close(fd);
		}
	} else if (!strcmp(task, "read")) {
		int fd = open(files[0], O_RDONLY | O_CLOEXEC);
		for (int i = 0; i < 10000; i++)
			if (pread(fd, buffer, sizeof buffer, (i % 4) * sizeof buffer) <= 0)
				fail("read");
		close(fd);
	} else if (!strcmp(task, "getppid")) {
		for (int i = 0; i < 200000; i++)
			syscall(SYS_getppid);
	} else if (!strcmp(task, "compile")) {
		char *const argv[] = { "/usr/bin/gcc", "-O2", "-pipe", "-c", "-o", "native.o", "native.c", NULL };
		run(argv);
		unlink("native.o");
	} else {
		errno = EINVAL;
		fail(task);
	}
}

static int worker(const char *dir)
{
	char line[64];
	if (chdir(dir) != 0)
		fail(dir);
	find_files();
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		int64_t start = now();
		work(line);
		printf("%lld\n", (long long)(now() - start));
	}
	return 0;
}

struct side {
	FILE *to, *from;
	pid_t pid;
};

static struct side start(char **argv)
{
	int to[2], from[2];
	struct side side;
	posix_spawn_file_actions_t actions;
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
		fail("pipe");
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to[0], 0);
	posix_spawn_file_actions_adddup2(&actions, from[1], 1);
	if ((errno = posix_spawn(&side.pid, argv[0], &actions, NULL, argv, environ)))
		fail(argv[0]);
	close(to[0]);
	close(from[1]);
	side.to = fdopen(to[1], "w");
	side.from = fdopen(from[0], "r");
	char line[64] = "";
	if (!fgets(line, sizeof line, side.from) || strcmp(line, "ready\n")) {
		errno = EPROTO;
		fail(argv[0]);
	}
	return side;
}

static double ask(struct side *side, const char *task)
{
	char line[64];
	fprintf(side->to, "%s\n", task);
	fflush(side->to);
	if (!fgets(line, sizeof line, side->from)) {
		errno = EPIPE;
		fail(task);
	}
	return strtod(line, NULL) / 1000;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values, int count)
{
	qsort(values, count, sizeof *values, ascending);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static int compare(int rounds, char **first, char **second)
{
	static double times[2][COUNT][MOST_ROUNDS], ratios[COUNT][MOST_ROUNDS];
	struct side sides[2] = { start(first), start(second) };
	for (int round = -2; round < rounds; round++) /* two rounds of warm-up */
		for (int task = 0; task < COUNT; task++) {
			double took[2];
			for (int turn = 0; turn < 2; turn++) {
				int which = turn ^ (round & 1);
				took[which] = ask(&sides[which], TASKS[task]);
			}
			if (round >= 0) {
				times[0][task][round] = took[0];
				times[1][task][round] = took[1];
				ratios[task][round] = took[1] / took[0];
			}
		}
	for (int task = 0; task < COUNT; task++)
		printf("%s\t%.1f\t%.1f\t%.4f\n", TASKS[task], median(times[0][task], rounds), median(times[1][task], rounds),
		       median(ratios[task], rounds));
	for (int which = 0; which < 2; which++) {
		int status;
		fclose(sides[which].to);
		if (waitpid(sides[which].pid, &status, 0) != sides[which].pid || status != 0) {
			errno = ECHILD;
			fail("a worker");
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "work"))
		return worker(argv[2]);
	if (argc > 5 && !strcmp(argv[1], "compare")) {
		int rounds = atoi(argv[2]), second = 4;
		while (second < argc && strncmp(argv[second], "---", 3))
			second++;
		if (rounds > 0 && rounds <= MOST_ROUNDS && !strncmp(argv[3], "---", 3) && second < argc) {
			/* The first list needs an end of its own. */
			char **first = calloc((size_t)argc, sizeof *first);
			if (!first)
				fail("calloc");
			memcpy(first, argv + 3, (size_t)(second - 3) * sizeof *first);
			first[0] += 3;
			argv[second] += 3;
			return compare(rounds, first, argv + second);
		}
	}
	fprintf(stderr, "usage: native work DIR | native compare ROUNDS ---COMMAND [ARG...] ---COMMAND [ARG...]\n");
	return 2;
}
