/* Steps CLOCK_REALTIME back for the processes that it is preloaded into, and leaves all other clocks alone.
 *
 * CLOCK_STUB names a file of two int64: the moment of the step in ns since 1970, and by how many ns the clock goes back.
 * While the first is 0 nothing is changed. Files that were written since the step show times of the stepped clock, as
 * they would on a machine whose clock was set back; times that a program sets itself are left as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *step(void) {
    static const volatile int64_t *shared;
    static const volatile int64_t none[2];
    if (shared == NULL) {
        const char *name = getenv("CLOCK_STUB");
        int file = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
        void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0)
            close(file);
        shared = mapped == MAP_FAILED ? none : mapped;
    }
    return shared;
}

static int64_t shifted(int64_t ns) {
    const volatile int64_t *by = step();
    return by[0] != 0 && ns >= by[0] ? ns - by[1] : ns;
}

static struct timespec shifted_time(struct timespec at) {
    int64_t ns = shifted((int64_t)at.tv_sec * 1000000000 + at.tv_nsec);
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, at);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *at = shifted_time(*at);
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *at = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at != NULL)
        *at = now.tv_sec;
    return now.tv_sec;
}

static int of_file(int result, struct stat *facts) {
    if (result == 0) {
        facts->st_mtim = shifted_time(facts->st_mtim);
        facts->st_ctim = shifted_time(facts->st_ctim);
        facts->st_atim = shifted_time(facts->st_atim);
    }
    return result;
}

#define STAT(name, parameters, arguments)                                                                              \
    int name parameters {                                                                                              \
        static int(*real) parameters;                                                                                  \
        if (real == NULL)                                                                                              \
            real = dlsym(RTLD_NEXT, #name);                                                                            \
        return of_file(real arguments, (struct stat *)facts);                                                          \
    }

STAT(stat, (const char *restrict path, struct stat *restrict facts), (path, facts))
STAT(stat64, (const char *restrict path, struct stat64 *restrict facts), (path, facts))
STAT(lstat, (const char *restrict path, struct stat *restrict facts), (path, facts))
STAT(lstat64, (const char *restrict path, struct stat64 *restrict facts), (path, facts))
STAT(fstat, (int file, struct stat *facts), (file, facts))
STAT(fstat64, (int file, struct stat64 *facts), (file, facts))
STAT(fstatat, (int folder, const char *restrict path, struct stat *restrict facts, int flags),
     (folder, path, facts, flags))
STAT(fstatat64, (int folder, const char *restrict path, struct stat64 *restrict facts, int flags),
     (folder, path, facts, flags))
