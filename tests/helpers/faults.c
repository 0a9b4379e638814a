/* Counts the operations of a process on the files below one folder; one of them
   can kill the process, or all from one on can fail. Loaded by LD_PRELOAD and
   armed by `fault_server.py`. Threads of C++ libraries are seen too. Here are
   the calls that a save makes, with orbax 0.12.8 and tensorstore 0.1.86. */

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
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SPACE = 1, NAMES = 2 };  /* needs room; changes names */

static char folder[PATH_MAX];
static size_t folder_length;
static long kill_at, fail_from;
static int fail_errno, fail_kinds;
static atomic_long count;

/* kill: the operation before which the process dies, 0 for none.
   from, error, kinds: from this operation on, those of `kinds` fail so. */
void fault_arm(const char *path, long kill_, long from, int error, int kinds) {
  count = 0;
  kill_at = kill_;
  fail_from = from;
  fail_errno = error;
  fail_kinds = kinds;
  strncpy(folder, path, sizeof folder - 1);
  folder_length = strlen(folder);
}

long fault_count(void) { return count; }

static int is_below(const char *path) {
  return folder_length && strncmp(path, folder, folder_length) == 0 &&
         (path[folder_length] == '/' || path[folder_length] == 0);
}

static int is_ours(int fd) {
  char name[64], path[PATH_MAX];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(name, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

static int is_ours_at(int fd, const char *path) {
  return path[0] == '/' || fd == AT_FDCWD ? is_below(path) : is_ours(fd);
}

/* 0: go on; 1: it fails, with errno set; 2: these are its last bytes. */
static int fault(const char *name, int kind) {
  long n = atomic_fetch_add(&count, 1) + 1;
  if (n == kill_at) {
    if (!strstr(name, "write")) raise(SIGKILL);
    return 2;
  }
  if (fail_from && n >= fail_from && (kind & fail_kinds)) {
    errno = fail_errno;
    return 1;
  }
  return 0;
}

#define REAL(name) static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CALL(name, kind, type, declared, passed, ours)  \
  type name declared {                                  \
    REAL(name);                                         \
    if ((ours) && fault(#name, kind)) return (type)-1;  \
    return real passed;                                 \
  }

/* A write that is killed leaves half of its bytes. */
#define WRITE(name, declared, half, passed)             \
  ssize_t name declared {                               \
    REAL(name);                                         \
    int outcome = is_ours(fd) ? fault(#name, SPACE) : 0; \
    if (outcome == 1) return -1;                        \
    if (outcome == 2) { (void)!(half); raise(SIGKILL); } \
    return real passed;                                 \
  }

#define MAKES (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)

#define OPEN(name)                                               \
  int name(const char *path, int flags, ...) {                   \
    REAL(name);                                                  \
    va_list rest;                                                \
    va_start(rest, flags);                                       \
    mode_t mode = va_arg(rest, mode_t);                          \
    va_end(rest);                                                \
    if ((flags & MAKES) && is_below(path) && fault(#name, SPACE)) \
      return -1;                                                 \
    return real(path, flags, mode);                              \
  }

OPEN(open)
OPEN(open64)
WRITE(write, (int fd, const void *b, size_t n), real(fd, b, n / 2), (fd, b, n))
WRITE(writev, (int fd, const struct iovec *v, int n), real(fd, v, n / 2),
      (fd, v, n))
CALL(fsync, SPACE, int, (int fd), (fd), is_ours(fd))
CALL(mkdir, SPACE | NAMES, int, (const char *p, mode_t m), (p, m), is_below(p))
CALL(rmdir, NAMES, int, (const char *p), (p), is_below(p))
CALL(unlink, NAMES, int, (const char *p), (p), is_below(p))
CALL(unlinkat, NAMES, int, (int fd, const char *p, int f), (fd, p, f),
     is_ours_at(fd, p))
CALL(rename, NAMES, int, (const char *p, const char *q), (p, q),
     is_below(p) || is_below(q))
