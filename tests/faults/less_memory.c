// An LD_PRELOAD library that takes all memory from upmoe-engine once it has mapped memory for the n-th time, for
// tests/python/test_out_of_memory.py. What it gives back after that is all that it can have again.
//
//   UPMOE_LAST_MMAP   n, from 1; calls that the C library makes within itself don't count
//   UPMOE_MMAP_COUNT  a file for the number of calls, written at exit
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static atomic_long calls;
static long last;

__attribute__((constructor)) static void begin(void) {
  char path[4096] = "";
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  const char *n = getenv("UPMOE_LAST_MMAP");
  if (length > 0 && strstr(path, "upmoe-engine") != NULL && n != NULL) last = atol(n);
}

__attribute__((destructor)) static void end(void) {
  const char *path = getenv("UPMOE_MMAP_COUNT");
  FILE *file = path == NULL ? NULL : fopen(path, "w");
  if (file == NULL) return;
  fprintf(file, "%ld\n", atomic_load(&calls));
  fclose(file);
}

static void take_the_rest(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%ld", &pages) != 1) abort();
  fclose(file);
  const rlim_t used = (rlim_t)(pages * sysconf(_SC_PAGESIZE));
  const struct rlimit limit = {used, used};
  if (setrlimit(RLIMIT_AS, &limit) != 0) abort();
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  static void *(*real)(void *, size_t, int, int, int, off_t);
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "mmap");
  void *const out = real(address, size, protection, flags, fd, offset);
  const int error = errno;
  if (atomic_fetch_add(&calls, 1) + 1 == last) take_the_rest();
  errno = error;
  return out;
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap(address, size, protection, flags, fd, offset);
}
