/* Times whole processes side by side: round after round, each command once per round (A B C A B C ...), so that a
 * change of the machine's speed meets all of them. A command is started with posix_spawn (vfork and exec) and timed
 * from before the spawn to after the wait. It must exit 0: anything else ends the benchmark.
 *
 *   rounds ROUNDS WARMUP ---LABEL COMMAND [ARG...] ---LABEL COMMAND ...
 *
 * The command "@parallel N COMMAND [ARG...]" starts N of that command one after the other and waits for all of them.
 * The command "@append FILE BYTES" is no process: it appends BYTES to FILE and calls fdatasync.
 * Standard input and output of the commands are /dev/null. Prints per command, tab-separated, in microseconds:
 * LABEL median p10 p90 minimum.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 16, MAX_APPEND = 1 << 20, MAX_COPIES = 1024 };

struct command {
	const char *label;
	char **argv;
	int append_fd; /* -1 for a process */
	size_t append_bytes;
	long copies;
	double *micros;
};

static char append_data[MAX_APPEND];
extern char **environ;

static void fail(const char *label, const char *what, const char *why)
{
	fprintf(stderr, "rounds: %s: %s: %s\n", label, what, why);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double append_once(const struct command *c)
{
	double start = now();

	if (write(c->append_fd, append_data, c->append_bytes) != (ssize_t)c->append_bytes)
		fail(c->label, "write", strerror(errno));
	if (fdatasync(c->append_fd) != 0)
		fail(c->label, "fdatasync", strerror(errno));
	return now() - start;
}

static double spawn_once(const struct command *c, const posix_spawn_file_actions_t *actions)
{
	double start = now(), end;
	char text[32];
	int status, error;
	pid_t pids[MAX_COPIES];

	for (long n = 0; n < c->copies; n++) {
		error = posix_spawn(&pids[n], c->argv[0], actions, NULL, c->argv, environ);
		if (error != 0)
			fail(c->label, c->argv[0], strerror(error));
	}
	for (long n = 0; n < c->copies; n++) {
		while (waitpid(pids[n], &status, 0) != pids[n])
			if (errno != EINTR)
				fail(c->label, "waitpid", strerror(errno));
		if (status != 0) {
			snprintf(text, sizeof text, WIFSIGNALED(status) ? "signal %d" : "exit code %d",
				 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
			fail(c->label, c->argv[0], text);
		}
	}
	end = now();
	return end - start;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static long number(const char *text, long least, long most)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < least || n > most)
		fail("usage", "not a number in range", text);
	return n;
}

int main(int argc, char **argv)
{
	struct command commands[MAX_COMMANDS];
	posix_spawn_file_actions_t actions;
	int count = 0;
	long rounds, warmup;

	if (argc < 5 || strncmp(argv[3], "---", 3) != 0)
		fail("usage", "rounds ROUNDS WARMUP ---LABEL COMMAND [ARG...] ...", "too few words");
	rounds = number(argv[1], 1, 1000000);
	warmup = number(argv[2], 0, 1000000);
	for (int i = 3; i < argc; i++) {
		struct command *c;

		if (strncmp(argv[i], "---", 3) != 0)
			continue;
		if (count == MAX_COMMANDS || i + 1 == argc)
			fail("usage", argv[i], "no command, or too many");
		c = &commands[count++];
		*c = (struct command){ .label = argv[i] + 3, .argv = argv + i + 1, .append_fd = -1, .copies = 1 };
		c->micros = calloc((size_t)rounds, sizeof *c->micros);
		if (c->micros == NULL)
			fail(c->label, "calloc", strerror(errno));
		argv[i] = NULL; /* ends the command before */
	}
	for (int k = 0; k < count; k++) {
		struct command *c = &commands[k];

		if (c->argv[0] == NULL)
			fail(c->label, "usage", "no command");
		if (strcmp(c->argv[0], "@parallel") == 0) {
			if (c->argv[1] == NULL || c->argv[2] == NULL)
				fail(c->label, "usage", "@parallel N COMMAND");
			c->copies = number(c->argv[1], 1, MAX_COPIES);
			c->argv += 2;
		}
		if (strcmp(c->argv[0], "@append") != 0)
			continue;
		if (c->argv[1] == NULL || c->argv[2] == NULL)
			fail(c->label, "usage", "@append FILE BYTES");
		c->append_bytes = (size_t)number(c->argv[2], 1, MAX_APPEND);
		c->append_fd = open(c->argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (c->append_fd < 0)
			fail(c->label, c->argv[1], strerror(errno));
	}
	memset(append_data, 'x', sizeof append_data);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);

	for (long r = -warmup; r < rounds; r++)
		for (int k = 0; k < count; k++) {
			const struct command *c = &commands[k];
			double t = c->append_fd >= 0 ? append_once(c) : spawn_once(c, &actions);

			if (r >= 0)
				c->micros[r] = t;
		}

	for (int k = 0; k < count; k++) {
		const struct command *c = &commands[k];
		size_t n = (size_t)rounds;

		qsort(c->micros, n, sizeof *c->micros, compare);
		printf("%s\t%.0f\t%.0f\t%.0f\t%.0f\n", c->label, c->micros[n / 2], c->micros[n / 10],
		       c->micros[n * 9 / 10], c->micros[0]);
	}
	return 0;
}
