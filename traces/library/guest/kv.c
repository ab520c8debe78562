/* Load of a key-value store in a guest: loads RECORDS values, then RATE requests a second in
 * batches every 10 ms over one connection, keys by Zipf 0.99, SHARE per cent of them writes.
 * Closed loop: a batch waits for the answers to the one before; a store that is slower than RATE
 * is asked less often, and the figures printed say so.
 *
 *   kv redis|memcached PORT RECORDS VALUE-BYTES RATE SHARE SEED
 *
 * Every second a line "kv SECONDS REQUESTS". Static, no libraries: the guest has none to spare.
 */
#include <arpa/inet.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static uint64_t next(void)
{
	/* splitmix64 */
	uint64_t z = (state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static int server, redis;
static char out[1 << 20], in[1 << 20];
static size_t used, records, value_bytes;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void value(void)
{
	/* Words: about as compressible as text. */
	static const char *const words[] = {"alpha ", "bravo ", "charlie ", "delta ", "echo ", "foxtrot ",
		"golf ", "hotel ", "india ", "juliet ", "kilo ", "lima ", "mike ", "november ", "oscar ", "papa "};
	size_t end = used + value_bytes;
	while (used < end) {
		const char *word = words[next() % 16];
		size_t length = strlen(word);
		if (length > end - used)
			length = end - used;
		memcpy(out + used, word, length);
		used += length;
	}
}

static void set(size_t key)
{
	if (redis)
		used += sprintf(out + used, "*3\r\n$3\r\nSET\r\n$10\r\nk%09zu\r\n$%zu\r\n", key, value_bytes);
	else
		used += sprintf(out + used, "set k%09zu 0 0 %zu\r\n", key, value_bytes);
	value();
	used += sprintf(out + used, "\r\n");
}

static void get(size_t key)
{
	if (redis)
		used += sprintf(out + used, "*2\r\n$3\r\nGET\r\n$10\r\nk%09zu\r\n", key);
	else
		used += sprintf(out + used, "get k%09zu\r\n", key);
}

/* Sends what is gathered and reads answers until as many bytes are in as must come at least. */
static void exchange(size_t answer_bytes)
{
	for (size_t sent = 0; sent < used;) {
		ssize_t n = write(server, out + sent, used - sent);
		if (n <= 0)
			fail("write");
		sent += n;
	}
	used = 0;
	for (size_t got = 0; got < answer_bytes;) {
		ssize_t n = read(server, in, sizeof in);
		if (n <= 0)
			fail("read");
		got += n;
	}
}

static size_t set_answer(void) { return redis ? 5 : 8; } /* +OK, STORED */
static size_t get_answer(void)
{
	char head[64];
	/* $N … or VALUE k 0 N … END */
	return redis ? sprintf(head, "$%zu\r\n", value_bytes) + value_bytes + 2
		     : sprintf(head, "VALUE k%09d 0 %zu\r\n", 0, value_bytes) + value_bytes + 7;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 8)
		return 2;
	redis = !strcmp(argv[1], "redis");
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	records = strtoul(argv[3], 0, 10);
	value_bytes = strtoul(argv[4], 0, 10);
	double rate = atof(argv[5]), share = atof(argv[6]) / 100;
	state = strtoull(argv[7], 0, 10);
	for (int tries = 0;; tries++) {
		server = socket(AF_INET, SOCK_STREAM, 0);
		if (!connect(server, (struct sockaddr *)&to, sizeof to))
			break;
		close(server);
		if (tries == 600)
			fail("connect");
		usleep(100000);
	}
	int one = 1;
	setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	for (size_t key = 0; key < records; key++) {
		set(key);
		if (key % 50 == 49 || key + 1 == records)
			exchange((key % 50 + 1) * set_answer());
	}
	/* Zipf 0.99 over ranks; a rank's key is scattered by a fixed multiplier. */
	double *cumulative = malloc(records * sizeof *cumulative), sum = 0;
	for (size_t rank = 0; rank < records; rank++)
		cumulative[rank] = sum += pow(rank + 1, -0.99);
	puts("kv loaded");
	fflush(stdout);
	double start = now(), due = start, told = start;
	size_t batch = rate / 100, done = 0;
	for (;;) {
		size_t answers = 0;
		for (size_t i = 0; i < batch; i++) {
			double want = sum * ((next() >> 11) * 0x1p-53);
			size_t low = 0, high = records - 1;
			while (low < high) {
				size_t middle = (low + high) / 2;
				if (cumulative[middle] < want)
					low = middle + 1;
				else
					high = middle;
			}
			size_t key = low * 7919 % records;
			if ((next() >> 11) * 0x1p-53 < share) {
				set(key);
				answers += set_answer();
			} else {
				get(key);
				answers += get_answer();
			}
		}
		exchange(answers);
		done += batch;
		double t = now();
		if (t - told >= 1) {
			printf("kv %.2f %zu\n", t - told, done);
			fflush(stdout);
			told = t, done = 0;
		}
		due += 0.01;
		if (due < t)
			due = t; /* late: no catching up */
		else
			usleep((due - t) * 1e6);
	}
}
