// An LD_PRELOAD library that lets the n-th system call of a kind go wrong, for the tests of what a program does
// then (tests/python/faults.py). Calls count only if they are about a file under one of the given folders.
//
//   UPMOE_FAULTS        CALL:N:ACTION, with commas between several
//     CALL    open read pread write pwrite fallocate ftruncate fsync fdatasync rename mkdir unlink mmap sync_range
//             copy flock fstat, or any for all of them together
//     N       the n-th of them (from 1); N+ for that one and all that follow
//     ACTION  ENOSPC EIO ...  the call is not made and fails so
//             SHORT  reads or writes the first half only, and says so
//             KILL   the process is gone before the call;  TORN  after half a write (or, else, after the call)
//             STOP   the process stops (SIGSTOP) before the call, until the test lets it go on
//             DELAY  the call is made 50 ms later
//             NODIRECT  EINVAL, if the file is open past the page cache (O_DIRECT)
//   UPMOE_FAULTS_UNDER  absolute paths, with colons between several
//   UPMOE_FAULTS_COUNT  a file for the number of calls of each kind, written at exit
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum call { ANY, OPEN, READ, PREAD, WRITE, PWRITE, FALLOCATE, FTRUNCATE, FSYNC, FDATASYNC, RENAME, MKDIR, UNLINK, MMAP,
            SYNC_RANGE, COPY, FLOCK, FSTAT, CALLS };
static const char *const call_names[CALLS] = {"any", "open", "read", "pread", "write", "pwrite", "fallocate",
                                              "ftruncate", "fsync", "fdatasync", "rename", "mkdir", "unlink", "mmap",
                                              "sync_range", "copy", "flock", "fstat"};

enum { NOTHING = 0, SHORT = -1, KILL = -2, TORN = -3, STOP = -4, DELAY = -5, NODIRECT = -6 };  // positive: an errno
static const struct { const char *name; int action; } actions[] = {
    {"SHORT", SHORT}, {"KILL", KILL}, {"TORN", TORN}, {"STOP", STOP}, {"DELAY", DELAY}, {"NODIRECT", NODIRECT},
    {"EACCES", EACCES}, {"EAGAIN", EAGAIN}, {"EBUSY", EBUSY}, {"EDQUOT", EDQUOT}, {"EFBIG", EFBIG}, {"EINTR", EINTR},
    {"EINVAL", EINVAL}, {"EIO", EIO}, {"EMFILE", EMFILE}, {"ENOENT", ENOENT}, {"ENOLCK", ENOLCK}, {"ENOMEM", ENOMEM},
    {"ENOSPC", ENOSPC}, {"ENOTSUP", EOPNOTSUPP}, {"EPERM", EPERM}, {"EROFS", EROFS}, {"ESTALE", ESTALE},
    {"EXDEV", EXDEV}};

static struct fault { enum call call; long first, last; int action; } faults[64];
static int num_faults;
static char under[4096];
static atomic_long counts[CALLS];

static void stop_with(const char *what, const char *got) {
  fprintf(stderr, "faults.c: %s '%s'\n", what, got);
  abort();
}

static enum call call_of(const char *name) {
  for (int c = 0; c < CALLS; ++c)
    if (strcmp(name, call_names[c]) == 0) return (enum call)c;
  stop_with("no such call", name);
  return ANY;
}

static int action_of(const char *name) {
  for (size_t a = 0; a < sizeof actions / sizeof *actions; ++a)
    if (strcmp(name, actions[a].name) == 0) return actions[a].action;
  stop_with("no such action", name);
  return NOTHING;
}

__attribute__((constructor)) static void begin(void) {
  const char *folders = getenv("UPMOE_FAULTS_UNDER"), *text = getenv("UPMOE_FAULTS");
  snprintf(under, sizeof under, "%s", folders != NULL ? folders : "");
  static char copy[4096];
  snprintf(copy, sizeof copy, "%s", text != NULL ? text : "");
  for (char *outer, *item = strtok_r(copy, ",", &outer); item != NULL; item = strtok_r(NULL, ",", &outer)) {
    char name[32], nth[32], action[32], *rest;
    if (num_faults == 64 || sscanf(item, "%31[^:]:%31[^:]:%31s", name, nth, action) != 3) stop_with("what is", item);
    const long n = strtol(nth, &rest, 10);
    if (n < 1 || (*rest != '\0' && strcmp(rest, "+") != 0)) stop_with("not a number", nth);
    faults[num_faults++] = (struct fault){call_of(name), n, *rest == '+' ? LONG_MAX : n, action_of(action)};
  }
}

__attribute__((destructor)) static void end(void) {
  const char *path = getenv("UPMOE_FAULTS_COUNT");
  if (path == NULL) return;
  FILE *file = fopen(path, "w");
  if (file == NULL) stop_with("cannot write", path);
  for (int c = 0; c < CALLS; ++c) fprintf(file, "%s %ld\n", call_names[c], atomic_load(&counts[c]));
  fclose(file);
}

static int is_under(const char *path) {
  for (const char *folder = under; *folder != '\0';) {
    const size_t length = strcspn(folder, ":");
    if (length > 0 && strncmp(path, folder, length) == 0 && strchr("/. ", path[length]) != NULL) return 1;
    folder += length + (folder[length] == ':');
  }
  return 0;
}

static int fd_is_under(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return is_under(path);
}

static int path_is_under(int dirfd, const char *path) {
  if (path == NULL) return 0;
  if (path[0] == '/') return is_under(path);
  char whole[2 * PATH_MAX], folder[PATH_MAX], link[64];
  snprintf(link, sizeof link, dirfd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dirfd);
  const ssize_t length = readlink(link, folder, sizeof folder - 1);
  if (length < 0) return 0;
  folder[length] = '\0';
  snprintf(whole, sizeof whole, "%s/%s", folder, path);
  return is_under(whole);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

// Counts the call; 0 if it goes its way, else SHORT, TORN or an errno. KILL, STOP and DELAY happen here.
static int fault_at(enum call call, int counted) {
  if (!counted) return NOTHING;
  const int before = errno;
  const long n = atomic_fetch_add(&counts[call], 1) + 1, any = atomic_fetch_add(&counts[ANY], 1) + 1;
  int action = NOTHING;
  for (int f = 0; f < num_faults && action == NOTHING; ++f) {
    const long number = faults[f].call == ANY ? any : n;
    if ((faults[f].call == ANY || faults[f].call == call) && number >= faults[f].first && number <= faults[f].last)
      action = faults[f].action;
  }
  if (action == KILL) die();
  if (action == STOP) kill(getpid(), SIGSTOP);
  if (action == DELAY) nanosleep(&(struct timespec){.tv_nsec = 50 * 1000 * 1000}, NULL);
  errno = before;
  return action == STOP || action == DELAY ? NOTHING : action;
}

// Half of what was asked for; in whole blocks if it is long, as direct I/O wants it.
static size_t half(size_t size) { return size >= 8192 ? size / 2 / 4096 * 4096 : (size + 1) / 2; }

#define FAIL_IF(action) \
  if ((action) > 0) return errno = (action), -1
#define AFTER(action, result) ((action) == TORN ? (die(), (result)) : (result))

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
  const int action = fault_at(OPEN, path_is_under(dirfd, path));
  FAIL_IF(action);
  const int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
  return AFTER(action, fd);
}
#define MODE(flags, last) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list list; va_start(list, last); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *path, int flags, ...) { MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int fd, const char *path, int flags, ...) { MODE(flags, flags) return do_open(fd, path, flags, mode); }
int openat64(int fd, const char *path, int flags, ...) { MODE(flags, flags) return do_open(fd, path, flags, mode); }

static ssize_t do_transfer(enum call call, long number, int fd, void *data, size_t size, off_t at) {
  int action = fault_at(call, fd_is_under(fd));
  if (action == NODIRECT) action = (fcntl(fd, F_GETFL) & O_DIRECT) ? EINVAL : NOTHING;
  FAIL_IF(action);
  const int less = action == SHORT || (action == TORN && (call == WRITE || call == PWRITE));
  return AFTER(action, (ssize_t)syscall(number, fd, data, less ? half(size) : size, at));
}
ssize_t read(int fd, void *to, size_t size) { return do_transfer(READ, SYS_read, fd, to, size, 0); }
ssize_t write(int fd, const void *of, size_t size) { return do_transfer(WRITE, SYS_write, fd, (void *)of, size, 0); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { return do_transfer(PREAD, SYS_pread64, fd, to, size, at); }
ssize_t pread64(int fd, void *to, size_t size, off_t at) { return do_transfer(PREAD, SYS_pread64, fd, to, size, at); }
ssize_t pwrite(int fd, const void *of, size_t size, off_t at) {
  return do_transfer(PWRITE, SYS_pwrite64, fd, (void *)of, size, at);
}
ssize_t pwrite64(int fd, const void *of, size_t size, off_t at) {
  return do_transfer(PWRITE, SYS_pwrite64, fd, (void *)of, size, at);
}

#define FD_CALL(call, fd, ...) \
  const int action = fault_at(call, fd_is_under(fd)); \
  FAIL_IF(action); \
  return AFTER(action, (int)syscall(__VA_ARGS__))
int fallocate(int fd, int mode, off_t at, off_t size) { FD_CALL(FALLOCATE, fd, SYS_fallocate, fd, mode, at, size); }
int fallocate64(int fd, int mode, off_t at, off_t size) { FD_CALL(FALLOCATE, fd, SYS_fallocate, fd, mode, at, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return fallocate(fd, 0, at, size) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off_t at, off_t size) { return fallocate(fd, 0, at, size) == 0 ? 0 : errno; }
int ftruncate(int fd, off_t size) { FD_CALL(FTRUNCATE, fd, SYS_ftruncate, fd, size); }
int ftruncate64(int fd, off_t size) { FD_CALL(FTRUNCATE, fd, SYS_ftruncate, fd, size); }
int fsync(int fd) { FD_CALL(FSYNC, fd, SYS_fsync, fd); }
int fdatasync(int fd) { FD_CALL(FDATASYNC, fd, SYS_fdatasync, fd); }
int flock(int fd, int how) { FD_CALL(FLOCK, fd, SYS_flock, fd, how); }
#ifdef SYS_sync_file_range
int sync_file_range(int fd, off_t at, off_t size, unsigned how) {
  FD_CALL(SYNC_RANGE, fd, SYS_sync_file_range, fd, at, size, how);
}
#endif
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t size, unsigned flags) {
  const int action = fault_at(COPY, fd_is_under(out) || fd_is_under(in));
  FAIL_IF(action);
  return AFTER(action, (ssize_t)syscall(SYS_copy_file_range, in, from, out, to, size, flags));
}
int fstat(int fd, struct stat *to) {
  const int action = fault_at(FSTAT, fd_is_under(fd));
  FAIL_IF(action);
  static int (*real)(int, struct stat *);
  if (real == NULL) real = (int (*)(int, struct stat *))dlsym(RTLD_NEXT, "fstat");
  return real(fd, to);
}
void *mmap(void *where, size_t size, int protection, int flags, int fd, off_t at) {
  const int action = fault_at(MMAP, fd >= 0 && !(flags & MAP_ANONYMOUS) && fd_is_under(fd));
  if (action > 0) return errno = action, MAP_FAILED;
  return (void *)syscall(SYS_mmap, where, size, protection, flags, fd, at);
}

void *mmap64(void *where, size_t size, int protection, int flags, int fd, off_t at) {
  return mmap(where, size, protection, flags, fd, at);
}

#define PATH_CALL(call, counted, ...) \
  const int action = fault_at(call, counted); \
  FAIL_IF(action); \
  return AFTER(action, (int)syscall(__VA_ARGS__))
int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
  PATH_CALL(RENAME, path_is_under(from_fd, from) || path_is_under(to_fd, to), SYS_renameat2, from_fd, from, to_fd, to,
            flags);
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) { return renameat2(from_fd, from, to_fd, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int mkdirat(int fd, const char *path, mode_t mode) {
  PATH_CALL(MKDIR, path_is_under(fd, path), SYS_mkdirat, fd, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int unlinkat(int fd, const char *path, int flags) {
  PATH_CALL(UNLINK, path_is_under(fd, path), SYS_unlinkat, fd, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  const int result = unlinkat(AT_FDCWD, path, 0);
  return result != 0 && errno == EISDIR ? rmdir(path) : result;
}
