// The only process of the guest: fills memory, then writes its working set at a pinned rate, in batches 5 ms apart, and says every
// second what it wrote and how many of its pages do not hold what it wrote there last. The kernel's command line says what:
// d.ws, d.res (pages), d.rate (writes/s), d.pattern (0 uniform, 1 sequential, 2 hot-cold), d.content (0 random, 1 one line of 64
// bytes repeated, 2 sixteen bytes), d.on, d.off (ms), d.seed.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };
static const uint64_t BATCH_NS = 5000000, SECOND_NS = 1000000000;
static char command_line[4096];
static uint64_t state = 0x9E3779B97F4A7C15;

static uint64_t draw(void) {
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static uint64_t given(const char *key, uint64_t otherwise) {
	const char *at = strstr(command_line, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : otherwise;
}

static uint64_t now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND_NS + t.tv_nsec;
}

static void *memory(uint64_t bytes) {
	void *at = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED) {
		puts("not enough memory");
		exit(1);
	}
	madvise(at, bytes + PAGE, MADV_NOHUGEPAGE);
	return at;
}

static void fill(uint64_t *page, uint64_t content) {
	uint64_t line[8];
	for (int i = 0; i < 8; i++)
		line[i] = draw();
	if (content == 2)
		memcpy(page + WORDS / 2, line, 16);
	else
		for (int i = 0; i < WORDS; i++)
			page[i] = content == 1 ? line[i % 8] : draw();
}

int main(void) {
	mkdir("/proc", 0755);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	int console = open("/dev/ttyS0", O_RDWR);
	for (int fd = 0; fd < 3 && console >= 0; fd++)
		dup2(console, fd);
	int file = open("/proc/cmdline", O_RDONLY);
	if (file < 0 || read(file, command_line, sizeof command_line - 1) < 0)
		puts("no command line");
	uint64_t pages = given("d.ws=", 16384), resident = given("d.res=", 0), rate = given("d.rate=", 0), pattern = given("d.pattern=", 0),
		content = given("d.content=", 0), on = given("d.on=", 0), off = given("d.off=", 0);
	state ^= given("d.seed=", 1) * 0xD1342543DE82EF95;
	if (pages == 0 || pages > 1 << 22)
		pages = 1;
	uint64_t *filled = memory(resident * PAGE), *set = memory(pages * PAGE);
	for (uint64_t i = 0; i < resident; i++)
		fill(filled + i * WORDS, 0);
	uint32_t *versions = memory(pages * sizeof *versions);
	uint8_t *seen = memory(pages);
	for (uint64_t i = 0; i < pages; i++) {
		fill(set + i * WORDS, content == 2 ? 0 : content);
		*(uint32_t *)(set + i * WORDS) = 0;
	}
	printf("dirtier: %llu pages\n", (unsigned long long)pages);
	uint64_t began = now(), due = began, report = began + SECOND_NS, walker = 0, writes = 0, credit = 0;
	for (;;) {
		due += BATCH_NS;
		struct timespec until = {due / SECOND_NS, due % SECOND_NS};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		uint64_t at = now();
		// What a pause of the guest kept from being written is not made up for.
		if (at > due + SECOND_NS / 5)
			due = at;
		if (on == 0 || (at - began) / 1000000 % (on + off) < on)
			credit += rate;
		for (; credit >= SECOND_NS / BATCH_NS; credit -= SECOND_NS / BATCH_NS) {
			int hot = pattern == 2 && draw() % 10 < 9;
			uint64_t page = pattern == 1 ? walker++ % pages : draw() % (hot ? pages / 10 + 1 : pages);
			fill(set + page * WORDS, content);
			*(uint32_t *)(set + page * WORDS) = ++versions[page];
			seen[page] = 1;
			writes++;
		}
		if (at >= report) {
			uint64_t distinct = 0, bad = 0;
			for (uint64_t i = 0; i < pages; i++) {
				distinct += seen[i];
				bad += *(uint32_t *)(set + i * WORDS) != versions[i];
			}
			memset(seen, 0, pages);
			printf("report %llu %llu %llu %llu\n", (unsigned long long)((at - began) / 1000000), (unsigned long long)writes,
				(unsigned long long)distinct, (unsigned long long)bad);
			writes = 0;
			report = at + SECOND_NS;
		}
	}
}
