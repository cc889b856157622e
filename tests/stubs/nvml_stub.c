/* A libnvidia-ml.so.1 without a GPU, so that the real Python bindings can be driven end to end.
 *
 * Power over time is known, hence so is the true energy of any window: its integral is exact, never a sum of samples.
 * The script is a text file named by the environment variable NVML_STUB, one "key value..." a line. Times T are seconds
 * of CLOCK_MONOTONIC; keys marked + may be repeated.
 *
 * The load
 *   gpus N                    number of GPUs (1); GPU i draws 50 W * i more than the script says, and updates i/3 period later
 *   names A B ...             names of the GPUs (all "Stub GPU")
 *   segment SECONDS WATTS     + power over time: the segments follow each other and repeat (one of 300 W)
 *   epoch T                   when the first segment begins (0); energy is counted from here
 *   load PATH                 power follows a file that grows, of pairs of little-endian doubles (T, watts). Each pair holds from
 *                             its time on; before the first one, the first segment's watts do. Every reading reads on in it.
 *                             A pair dated before the one in front of it counts from the time of that one.
 *
 * The sensors. A reading is that of the last update before the call, and stays as it is until the next one.
 *   period_ms N               update period of the energy counter (100)
 *   power_period_ms N         update period of the power readings (100)
 *   jitter_ms N               every update comes late or early by a pseudo-random amount in [-N/2, N/2] ms (0; less than a period)
 *   see_ms N                  the instant power (field 186) is the mean over the N ms before the update (0: the value at it).
 *                             With a period of 100 and N 25, a sensor that looks for a part of the time
 *   average_ms N              field 185 and nvmlDeviceGetPowerUsage are the mean over the N ms before the update (as field 186)
 *   counter_see_ms N          each update adds the time since the last one times the mean power over its last N ms (the exact
 *                             energy). Counted from the epoch, or from nvmlInit where the script names no epoch
 *   average_scale X           field 185 reads X times what it should, to tell the two fields apart (1)
 *   scope N FACTOR            + fields 185 and 186 answer in this scope (0 GPU, 1 module, 2 memory) with FACTOR times the power;
 *                             below 0: not supported there (scope 0 with 1, others not supported)
 *
 * The environment
 *   temperature C C_PER_S     C + C_PER_S * (time since the epoch) degrees (55 0)
 *   clock_between T0 T1 MHZ   + SM clock in that time (1755)
 *   reasons MASK              clock event reasons (0)
 *   reasons_between T0 T1 MASK  + these too, in that time
 *   pid N                     + a compute process on every GPU
 *   pid_between T0 T1 N       + a compute process in that time
 *   graphics_pid N, mps_pid N + a graphics process, an MPS client on every GPU
 *   mig 1                     MIG is enabled on every GPU
 *   mig_gpu N                 + MIG is enabled on this GPU
 *   compute_mode N            0 default, 2 prohibited, 3 exclusive process (0)
 *   architecture N            as nvml.h numbers them (9, Hopper; 4, Pascal, with no_counter)
 *
 * The power limit
 *   limits MIN MAX DEFAULT    in W (200 400 400); setting one outside returns INVALID_ARGUMENT
 *   enforced_max W            the enforced limit is the one that was set, but at most this (350)
 *   limit_file PATH           where the limits that were set live, for all processes: lines of "GPU milliwatts". Without it
 *                             they live in the process
 *   no_permission 1           setting a limit returns NO_PERMISSION
 *
 * What is absent, and faults
 *   no_counter 1              the energy counter is not supported
 *   no_field ID               + this field is not supported
 *   no_power 1                nvmlDeviceGetPowerUsage is not supported
 *   lost_field ID PATH        from when this file exists, this field says that the GPU is lost
 *   no_gpu N                  + this GPU can't be opened, because it is lost
 *   stamp_calls 1             time stamps of fields are those of the call, not of the update
 *   no_environment 1          temperature, clocks, reasons and processes are not supported
 *   zero_field ID             + this field answers success and 0, a known fault of drivers
 *   error NAME CODE           + this call returns CODE: counter, power (nvmlDeviceGetPowerUsage), fields (in each field),
 *                             temperature, clocks, reasons, processes, set_limit
 *   init_error CODE           nvmlInit fails
 *   lost PATH                 from when this file exists, every reading says that the GPU is lost
 *   reset PATH                when this file is made, the counter restarts from zero
 *   frozen PATH               as long as this file exists, the counter stands still
 */
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7, UNREADABLE = 17, LOST = 15 };
enum { MAX_GPUS = 16, MAX = 64 };
enum { AVERAGE_POWER = 185, INSTANT_POWER = 186, ENERGY = 83, MIN_LIMIT = 187, MAX_LIMIT, DEFAULT_LIMIT, CURRENT_LIMIT, SET_LIMIT = 192 };
enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 };
enum { AT_COUNTER, AT_POWER, AT_FIELDS, AT_TEMPERATURE, AT_CLOCKS, AT_REASONS, AT_PROCESSES, AT_SET_LIMIT, CALLS };
static const char *const calls[CALLS] = {"counter", "power", "fields", "temperature", "clocks", "reasons", "processes", "set_limit"};

typedef struct { unsigned int id, scope; int64_t timestamp_us, latency_us; int type, ret; uint64_t value; } field_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;
typedef struct { double from, to; unsigned long long value; } spell_t;
typedef struct { int n; spell_t is[MAX]; } spells_t;
typedef struct { int n; unsigned int is[MAX]; } ids_t;

static struct {
    int gpus, no_counter, no_power, no_environment, no_permission, mig, compute_mode, architecture, init_error, has_epoch, segments, stamp_calls;
    unsigned int lost_field;
    int error[CALLS];
    double epoch, period, power_period, jitter, see, average, counter_see, average_scale, scope[3];
    double seconds[MAX], watts[MAX], celsius, celsius_per_s, min_w, max_w, default_w, enforced_max_w;
    unsigned long long reasons;
    ids_t no_field, zero_field, no_gpu, mig_gpu, pids, graphics_pids, mps_pids;
    spells_t pids_between, reasons_between, clock_between;
    char names[MAX_GPUS][64], load[900], limit_file[900], lost[900], reset[900], frozen[900], lost_field_path[900];
} s;

/* Registers that hold their value between two updates; all of them, and the script, are guarded by one lock. */
static struct { int known, frozen, reset; long long update; double joules, zero_j; } counters[MAX_GPUS];
static struct { int known; long long update; double instant_w, average_w; } powers[MAX_GPUS];
static struct { int file; size_t n, room; double *time, *watts, *joules; } follow = {.file = -1};
static double limit_w[MAX_GPUS], began, wall;
static int users;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static double read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void) { return read_clock(CLOCK_MONOTONIC); }

/* CLOCK_REALTIME less CLOCK_MONOTONIC: the pair of readings that was least disturbed. */
static double wall_offset(void) {
    double offset = 0, closest = HUGE_VAL;
    for (int i = 0; i < 10; i++) {
        double before = now(), real = read_clock(CLOCK_REALTIME), after = now();
        if (after - before >= closest) continue;
        closest = after - before;
        offset = real - (before + after) / 2;
    }
    return offset;
}

static int exists(const char *path) { return *path && access(path, F_OK) == 0; }

static int has(const ids_t *ids, unsigned int id) {
    for (int i = 0; i < ids->n; i++) if (ids->is[i] == id) return 1;
    return 0;
}

/* ---- the script ---- */

static void refuse(const char *what, const char *text) {
    fprintf(stderr, "nvml stub: %s: %s\n", what, text);
    abort();
}

static void add_id(ids_t *ids, const char *text) {
    if (ids->n == MAX) refuse("too many", text);
    ids->is[ids->n++] = (unsigned int)strtoul(text, NULL, 0);
}

static void add_spell(spells_t *spells, const char *text) {
    char value[64];
    if (spells->n == MAX) refuse("too many", text);
    spell_t *spell = &spells->is[spells->n++];
    if (sscanf(text, "%lf %lf %63s", &spell->from, &spell->to, value) != 3) refuse("not T0 T1 VALUE", text);
    spell->value = strtoull(value, NULL, 0);
}

static void add_error(const char *text) {
    char name[64];
    int code;
    if (sscanf(text, "%63s %d", name, &code) != 2) refuse("not NAME CODE", text);
    for (int i = 0; i < CALLS; i++) if (!strcmp(calls[i], name)) { s.error[i] = code; return; }
    refuse("unknown call", text);
}

static void add_scope(const char *text) {
    int scope;
    double factor;
    if (sscanf(text, "%d %lf", &scope, &factor) != 2 || scope < 0 || scope > 2) refuse("not SCOPE FACTOR", text);
    s.scope[scope] = factor;
}

static void read_line(const char *key, char *rest) {
    if (!strcmp(key, "gpus")) s.gpus = atoi(rest);
    else if (!strcmp(key, "names")) {
        int i = 0;
        for (char *word = strtok(rest, " "); word && i < MAX_GPUS; word = strtok(NULL, " ")) snprintf(s.names[i++], 64, "%s", word);
    }
    else if (!strcmp(key, "segment")) {
        if (s.segments == MAX || sscanf(rest, "%lf %lf", &s.seconds[s.segments], &s.watts[s.segments]) != 2) refuse("segment", rest);
        s.segments++;
    }
    else if (!strcmp(key, "epoch")) { s.epoch = atof(rest); s.has_epoch = 1; }
    else if (!strcmp(key, "load")) strcpy(s.load, rest);
    else if (!strcmp(key, "period_ms")) s.period = atof(rest) / 1e3;
    else if (!strcmp(key, "power_period_ms")) s.power_period = atof(rest) / 1e3;
    else if (!strcmp(key, "jitter_ms")) s.jitter = atof(rest) / 1e3;
    else if (!strcmp(key, "see_ms")) s.see = atof(rest) / 1e3;
    else if (!strcmp(key, "average_ms")) s.average = atof(rest) / 1e3;
    else if (!strcmp(key, "counter_see_ms")) s.counter_see = atof(rest) / 1e3;
    else if (!strcmp(key, "average_scale")) s.average_scale = atof(rest);
    else if (!strcmp(key, "scope")) add_scope(rest);
    else if (!strcmp(key, "temperature")) sscanf(rest, "%lf %lf", &s.celsius, &s.celsius_per_s);
    else if (!strcmp(key, "clock_between")) add_spell(&s.clock_between, rest);
    else if (!strcmp(key, "reasons")) s.reasons = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "reasons_between")) add_spell(&s.reasons_between, rest);
    else if (!strcmp(key, "pid")) add_id(&s.pids, rest);
    else if (!strcmp(key, "pid_between")) add_spell(&s.pids_between, rest);
    else if (!strcmp(key, "graphics_pid")) add_id(&s.graphics_pids, rest);
    else if (!strcmp(key, "mps_pid")) add_id(&s.mps_pids, rest);
    else if (!strcmp(key, "mig")) s.mig = atoi(rest);
    else if (!strcmp(key, "mig_gpu")) add_id(&s.mig_gpu, rest);
    else if (!strcmp(key, "no_gpu")) add_id(&s.no_gpu, rest);
    else if (!strcmp(key, "stamp_calls")) s.stamp_calls = atoi(rest);
    else if (!strcmp(key, "lost_field")) {
        if (sscanf(rest, "%u %899s", &s.lost_field, s.lost_field_path) != 2) refuse("not ID PATH", rest);
    }
    else if (!strcmp(key, "compute_mode")) s.compute_mode = atoi(rest);
    else if (!strcmp(key, "architecture")) s.architecture = atoi(rest);
    else if (!strcmp(key, "limits")) {
        if (sscanf(rest, "%lf %lf %lf", &s.min_w, &s.max_w, &s.default_w) != 3) refuse("not MIN MAX DEFAULT", rest);
    }
    else if (!strcmp(key, "enforced_max")) s.enforced_max_w = atof(rest);
    else if (!strcmp(key, "limit_file")) strcpy(s.limit_file, rest);
    else if (!strcmp(key, "no_permission")) s.no_permission = atoi(rest);
    else if (!strcmp(key, "no_counter")) s.no_counter = atoi(rest);
    else if (!strcmp(key, "no_field")) add_id(&s.no_field, rest);
    else if (!strcmp(key, "no_power")) s.no_power = atoi(rest);
    else if (!strcmp(key, "no_environment")) s.no_environment = atoi(rest);
    else if (!strcmp(key, "zero_field")) add_id(&s.zero_field, rest);
    else if (!strcmp(key, "error")) add_error(rest);
    else if (!strcmp(key, "init_error")) s.init_error = atoi(rest);
    else if (!strcmp(key, "lost")) strcpy(s.lost, rest);
    else if (!strcmp(key, "reset")) strcpy(s.reset, rest);
    else if (!strcmp(key, "frozen")) strcpy(s.frozen, rest);
    else refuse("unknown key", key);
}

static void read_script(void) {
    char line[1024], key[64], rest[900];
    memset(&s, 0, sizeof s);
    s.gpus = 1;
    s.period = s.power_period = 0.1;
    s.average_scale = s.scope[0] = 1;
    s.scope[1] = s.scope[2] = -1;
    s.celsius = 55;
    s.min_w = 200;
    s.max_w = s.default_w = 400;
    s.enforced_max_w = 350;
    for (int i = 0; i < MAX_GPUS; i++) strcpy(s.names[i], "Stub GPU");
    FILE *file = getenv("NVML_STUB") ? fopen(getenv("NVML_STUB"), "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%63s %899[^\n]", key, rest) == 2) read_line(key, rest);
    if (file) fclose(file);
    if (!s.segments) { s.segments = 1; s.seconds[0] = 1; s.watts[0] = 300; }
    if (!s.architecture) s.architecture = s.no_counter ? 4 : 9;
    if (s.gpus > MAX_GPUS) refuse("too many", "gpus");
    if (s.jitter >= s.period || s.jitter >= s.power_period) refuse("jitter_ms", "not less than the update period");
    memset(counters, 0, sizeof counters);
    memset(powers, 0, sizeof powers);
    for (int i = 0; i < MAX_GPUS; i++) limit_w[i] = s.default_w;
    if (follow.file >= 0) close(follow.file);
    follow.file = -1;
    follow.n = 0;
    began = now();
    wall = wall_offset();
}

/* ---- power over time, of GPU 0 ---- */

/* Take in the pairs that the load file has grown by; joules[i] is the energy from the epoch to time[i]. */
static void read_load(void) {
    double pair[2];
    if (follow.file < 0) follow.file = open(s.load, O_RDONLY | O_CLOEXEC);
    while (follow.file >= 0 && pread(follow.file, pair, sizeof pair, (off_t)(follow.n * sizeof pair)) == (ssize_t)sizeof pair) {
        if (follow.n == follow.room) {
            follow.room = follow.room ? 2 * follow.room : 1024;
            follow.time = realloc(follow.time, follow.room * sizeof(double));
            follow.watts = realloc(follow.watts, follow.room * sizeof(double));
            follow.joules = realloc(follow.joules, follow.room * sizeof(double));
            if (!follow.time || !follow.watts || !follow.joules) refuse("out of memory", s.load);
        }
        size_t i = follow.n++;
        double last_s = i ? follow.time[i - 1] : s.epoch, last_w = i ? follow.watts[i - 1] : s.watts[0];
        follow.time[i] = i && pair[0] < last_s ? last_s : pair[0];
        follow.watts[i] = pair[1];
        follow.joules[i] = (i ? follow.joules[i - 1] : 0) + last_w * (follow.time[i] - last_s);
    }
}

static double loaded(double t, double *power) {
    size_t from = 0, to = follow.n; /* how many pairs hold at t or before */
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (follow.time[middle] <= t) from = middle + 1;
        else to = middle;
    }
    double watts = from ? follow.watts[from - 1] : s.watts[0];
    if (power) *power = watts;
    return from ? follow.joules[from - 1] + watts * (t - follow.time[from - 1]) : watts * (t - s.epoch);
}

static double repeated(double t, double *power) {
    double cycle_s = 0, cycle_j = 0;
    for (int i = 0; i < s.segments; i++) { cycle_s += s.seconds[i]; cycle_j += s.seconds[i] * s.watts[i]; }
    double cycles = floor((t - s.epoch) / cycle_s), left = t - s.epoch - cycles * cycle_s, joules = cycles * cycle_j;
    int i = 0;
    for (; i < s.segments - 1 && left >= s.seconds[i]; i++) { joules += s.seconds[i] * s.watts[i]; left -= s.seconds[i]; }
    if (power) *power = s.watts[i];
    return joules + left * s.watts[i];
}

/* Joules that a GPU used from the epoch to t. */
static double energy(int gpu, double t) { return (*s.load ? loaded(t, NULL) : repeated(t, NULL)) + 50.0 * gpu * (t - s.epoch); }

/* Mean watts of a GPU over the time up to t; with no length, the power at t. */
static double mean_power(int gpu, double t, double length) {
    double power;
    if (length > 0) return (energy(gpu, t) - energy(gpu, t - length)) / length;
    if (*s.load) loaded(t, &power);
    else repeated(t, &power);
    return power + 50.0 * gpu;
}

/* ---- updates ---- */

static int gpu_of(void *handle) { return (int)((intptr_t)handle - 1); }

/* The splitmix64 generator's finaliser, as a number in [0, 1]. */
static double scatter(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) / 9007199254740991.0;
}

static double update_time(double period, int gpu, long long update) {
    double shift = s.jitter ? s.jitter * (scatter((uint64_t)update * MAX_GPUS + (unsigned int)gpu) - 0.5) : 0;
    return s.epoch + period * gpu / 3 + (double)update * period + shift;
}

static long long last_update(double period, int gpu, double t) {
    long long update = (long long)floor((t - s.epoch - period * gpu / 3) / period) + 1;
    while (update_time(period, gpu, update) > t) update--;
    return update;
}

/* When an event's file was made: an event happens then, and not when somebody looks. t where there is none. */
static double made(const char *path, double t) {
    struct stat file;
    struct timespec today;
    if (!*path || stat(path, &file) != 0) return t;
    clock_gettime(CLOCK_REALTIME, &today);
    double age = (double)(today.tv_sec - file.st_mtim.tv_sec) + (double)(today.tv_nsec - file.st_mtim.tv_nsec) / 1e9;
    return fmax(began, fmin(t, t - age));
}

static double counted_mj(int gpu) {
    if (*s.load) read_load();
    long long update = last_update(s.period, gpu, made(s.frozen, now()));
    if (counters[gpu].known && update < counters[gpu].update) update = counters[gpu].update; /* files' times are coarse */
    int stopped = exists(s.frozen) && counters[gpu].frozen;
    counters[gpu].frozen = exists(s.frozen);
    if (!s.counter_see) {
        if (!stopped && (!counters[gpu].known || update != counters[gpu].update))
            counters[gpu].joules = energy(gpu, update_time(s.period, gpu, update));
    } else {
        if (!counters[gpu].known) counters[gpu].update = s.has_epoch ? 0 : last_update(s.period, gpu, began);
        for (long long i = counters[gpu].update + 1; i <= update && !stopped; i++) {
            double t = update_time(s.period, gpu, i);
            counters[gpu].joules += (t - update_time(s.period, gpu, i - 1)) * mean_power(gpu, t, s.counter_see);
        }
    }
    if (!stopped && (!s.counter_see || update > counters[gpu].update)) counters[gpu].update = update;
    counters[gpu].known = 1;
    if (exists(s.reset) && !counters[gpu].reset) {
        counters[gpu].reset = 1;
        update = last_update(s.period, gpu, made(s.reset, now()));
        counters[gpu].zero_j = s.counter_see ? counters[gpu].joules : energy(gpu, update_time(s.period, gpu, update));
    }
    return fmax(0, (counters[gpu].joules - counters[gpu].zero_j) * 1e3);
}

static void update_power(int gpu) {
    if (*s.load) read_load();
    long long update = last_update(s.power_period, gpu, now());
    if (powers[gpu].known && powers[gpu].update == update) return;
    double t = update_time(s.power_period, gpu, update);
    powers[gpu].known = 1;
    powers[gpu].update = update;
    powers[gpu].instant_w = mean_power(gpu, t, s.see);
    powers[gpu].average_w = s.average > 0 ? mean_power(gpu, t, s.average) : powers[gpu].instant_w;
}

/* ---- power limits ---- */

/* Read the limits that all processes share into limit_w, and set one of them where gpu >= 0. Written by one call, as
 * lines of fixed width: a process that is killed leaves the old limits or the new ones, like a driver. */
static int share_limits(int gpu, double watts) {
    if (!*s.limit_file) {
        if (gpu >= 0) limit_w[gpu] = watts;
        return OK;
    }
    char text[MAX_GPUS * 24 + 1] = "";
    int file = open(s.limit_file, O_RDWR | O_CREAT | O_CLOEXEC, 0666), code = UNREADABLE;
    if (file < 0) return code;
    if (flock(file, LOCK_EX) == 0 && pread(file, text, sizeof text - 1, 0) >= 0) {
        for (int i = 0; i < MAX_GPUS; i++) limit_w[i] = s.default_w;
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
            int index;
            double milliwatts;
            if (sscanf(line, "%d %lf", &index, &milliwatts) == 2 && index >= 0 && index < MAX_GPUS) limit_w[index] = milliwatts / 1e3;
        }
        code = OK;
    }
    if (code == OK && gpu >= 0) {
        size_t n = 0;
        limit_w[gpu] = watts;
        for (int i = 0; i < MAX_GPUS; i++) n += (size_t)snprintf(text + n, sizeof text - n, "%d %8.0f\n", i, limit_w[i] * 1e3);
        if (pwrite(file, text, n, 0) != (ssize_t)n) code = UNREADABLE;
    }
    close(file);
    return code;
}

static unsigned int milli(double value) { return (unsigned int)(value * 1e3 + 0.5); }

static int read_limit(void *handle, double at_most_w, unsigned int *mw) {
    if (exists(s.lost)) return LOST;
    pthread_mutex_lock(&guard);
    int code = share_limits(-1, 0);
    *mw = milli(fmin(limit_w[gpu_of(handle)], at_most_w));
    pthread_mutex_unlock(&guard);
    return code;
}

/* ---- the interface ---- */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    pthread_mutex_lock(&guard);
    if (!users) read_script();
    if (!s.init_error) users++;
    pthread_mutex_unlock(&guard);
    return s.init_error;
}

int nvmlShutdown(void) {
    pthread_mutex_lock(&guard);
    if (users) users--;
    pthread_mutex_unlock(&guard);
    return OK;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Stub error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned int n) { snprintf(text, n, "999.1"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned int n) { snprintf(text, n, "13.999.1"); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = (unsigned int)s.gpus; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if ((int)index >= s.gpus) return INVALID;
    if (has(&s.no_gpu, index)) return LOST;
    *handle = (void *)(intptr_t)(index + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int n) {
    snprintf(text, n, "GPU-%d0000000-feed-beef-0000-00000000000%d", gpu_of(handle) + 1, gpu_of(handle));
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    char own[96];
    for (unsigned int i = 0; (int)i < s.gpus; i++) {
        nvmlDeviceGetHandleByIndex_v2(i, handle);
        nvmlDeviceGetUUID(*handle, own, sizeof own);
        if (!strcmp(own, uuid)) return OK;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(void *handle, unsigned int *index) { *index = (unsigned int)gpu_of(handle); return OK; }
int nvmlDeviceGetName(void *handle, char *text, unsigned int n) { snprintf(text, n, "%s", s.names[gpu_of(handle)]); return OK; }
int nvmlDeviceGetSerial(void *handle, char *text, unsigned int n) { snprintf(text, n, "99900000000%02d", gpu_of(handle)); return OK; }
int nvmlDeviceGetVbiosVersion(void *handle, char *text, unsigned int n) { (void)handle; snprintf(text, n, "00.11.22"); return OK; }
int nvmlDeviceGetArchitecture(void *handle, unsigned int *number) { (void)handle; *number = (unsigned int)s.architecture; return OK; }
int nvmlDeviceGetPersistenceMode(void *handle, unsigned int *mode) { (void)handle; *mode = 1; return OK; }
int nvmlDeviceGetComputeMode(void *handle, unsigned int *mode) { (void)handle; *mode = (unsigned int)s.compute_mode; return OK; }
int nvmlDeviceGetC2cModeInfoV(void *handle, void *info) { (void)handle, (void)info; return NOT_SUPPORTED; }

int nvmlDeviceGetPciInfo_v3(void *handle, void *answer) {
    struct { char legacy_id[16]; unsigned int domain, bus, device, device_id, subsystem_id; char id[32]; } *pci = answer;
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x10 + (unsigned int)gpu_of(handle);
    pci->device_id = 0x233010de;
    snprintf(pci->legacy_id, sizeof pci->legacy_id, "0000:%02X:00.0", pci->bus);
    snprintf(pci->id, sizeof pci->id, "00000000:%02X:00.0", pci->bus);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *total_free_used) {
    (void)handle;
    total_free_used[0] = 80ull << 30;
    total_free_used[1] = 70ull << 30;
    total_free_used[2] = 10ull << 30;
    return exists(s.lost) ? LOST : OK;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned int *gpu_and_memory) {
    (void)handle;
    gpu_and_memory[0] = 100;
    gpu_and_memory[1] = 50;
    return exists(s.lost) ? LOST : OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    *current = *pending = s.mig || has(&s.mig_gpu, (unsigned int)gpu_of(handle));
    return OK;
}

int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned int *mw) { return read_limit(handle, HUGE_VAL, mw); }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned int *mw) { return read_limit(handle, s.enforced_max_w, mw); }
int nvmlDeviceGetPowerManagementDefaultLimit(void *handle, unsigned int *mw) { (void)handle; *mw = milli(s.default_w); return OK; }

int nvmlDeviceGetPowerManagementLimitConstraints(void *handle, unsigned int *min_mw, unsigned int *max_mw) {
    (void)handle;
    *min_mw = milli(s.min_w);
    *max_mw = milli(s.max_w);
    return exists(s.lost) ? LOST : OK;
}

int nvmlDeviceSetPowerManagementLimit(void *handle, unsigned int mw) {
    if (exists(s.lost)) return LOST;
    if (s.error[AT_SET_LIMIT]) return s.error[AT_SET_LIMIT];
    if (s.no_permission) return NO_PERMISSION;
    if (mw < milli(s.min_w) || mw > milli(s.max_w)) return INVALID;
    pthread_mutex_lock(&guard);
    int code = share_limits(gpu_of(handle), mw / 1e3);
    pthread_mutex_unlock(&guard);
    return code;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *mj) {
    if (exists(s.lost)) return LOST;
    if (s.error[AT_COUNTER]) return s.error[AT_COUNTER];
    if (s.no_counter) return NOT_SUPPORTED;
    pthread_mutex_lock(&guard);
    *mj = (unsigned long long)(counted_mj(gpu_of(handle)) + 0.5);
    pthread_mutex_unlock(&guard);
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned int *mw) {
    if (exists(s.lost)) return LOST;
    if (s.error[AT_POWER]) return s.error[AT_POWER];
    if (s.no_power) return NOT_SUPPORTED;
    pthread_mutex_lock(&guard);
    update_power(gpu_of(handle));
    *mw = milli(powers[gpu_of(handle)].average_w);
    pthread_mutex_unlock(&guard);
    return OK;
}

/* Fills in all of a field but its return code, which is returned. */
static int read_field(void *handle, field_t *f) {
    int gpu = gpu_of(handle);
    unsigned int mw = 0;
    unsigned long long mj = 0;
    double update = now();
    f->type = UNSIGNED_INT;
    f->latency_us = 5;
    f->value = 0;
    if (s.error[AT_FIELDS]) return s.error[AT_FIELDS];
    if (has(&s.no_field, f->id)) return NOT_SUPPORTED;
    if (s.lost_field == f->id && exists(s.lost_field_path)) return LOST;
    int code = OK;
    if (f->id == AVERAGE_POWER || f->id == INSTANT_POWER) {
        double factor = f->scope <= 2 ? s.scope[f->scope] : -1;
        if (factor < 0) return NOT_SUPPORTED;
        pthread_mutex_lock(&guard);
        update_power(gpu);
        update = update_time(s.power_period, gpu, powers[gpu].update);
        mw = milli(factor * (f->id == AVERAGE_POWER ? powers[gpu].average_w * s.average_scale : powers[gpu].instant_w));
        pthread_mutex_unlock(&guard);
    }
    else if (f->id == ENERGY) {
        f->type = UNSIGNED_LONG_LONG;
        code = nvmlDeviceGetTotalEnergyConsumption(handle, &mj);
        update = update_time(s.period, gpu, counters[gpu].update);
    }
    else if (f->id == MIN_LIMIT) mw = milli(s.min_w);
    else if (f->id == MAX_LIMIT) mw = milli(s.max_w);
    else if (f->id == DEFAULT_LIMIT) mw = milli(s.default_w);
    else if (f->id == CURRENT_LIMIT) code = nvmlDeviceGetEnforcedPowerLimit(handle, &mw);
    else if (f->id == SET_LIMIT) code = nvmlDeviceGetPowerManagementLimit(handle, &mw);
    else return NOT_SUPPORTED;
    f->timestamp_us = (int64_t)((wall + (s.stamp_calls ? now() : update)) * 1e6);
    if (!has(&s.zero_field, f->id)) f->value = f->id == ENERGY ? mj : mw;
    return code;
}

int nvmlDeviceGetFieldValues(void *handle, int count, field_t *fields) {
    if (exists(s.lost)) return LOST;
    for (int i = 0; i < count; i++) fields[i].ret = read_field(handle, &fields[i]);
    return OK;
}

static int read_temperature(double *celsius) {
    *celsius = s.celsius + s.celsius_per_s * (now() - s.epoch);
    if (s.error[AT_TEMPERATURE]) return s.error[AT_TEMPERATURE];
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    (void)handle, (void)sensor;
    double exact;
    int code = read_temperature(&exact);
    *celsius = (unsigned int)fmax(0, floor(exact));
    return code;
}

int nvmlDeviceGetTemperatureV(void *handle, void *answer) {
    (void)handle;
    struct { unsigned int version; int sensor, celsius; } *temperature = answer;
    double exact;
    int code = read_temperature(&exact);
    temperature->celsius = (int)floor(exact);
    return code;
}

int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned int *mhz) {
    (void)handle;
    double t = now();
    *mhz = kind == 1 ? 1755 : 0;
    for (int i = 0; i < s.clock_between.n && kind == 1; i++) {
        const spell_t *spell = &s.clock_between.is[i];
        if (spell->from <= t && t < spell->to) *mhz = (unsigned int)spell->value;
    }
    if (s.error[AT_CLOCKS]) return s.error[AT_CLOCKS];
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetPerformanceState(void *handle, unsigned int *state) {
    (void)handle;
    *state = 0;
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *mask) {
    (void)handle;
    double t = now();
    *mask = s.reasons;
    for (int i = 0; i < s.reasons_between.n; i++) {
        const spell_t *spell = &s.reasons_between.is[i];
        if (spell->from <= t && t < spell->to) *mask |= spell->value;
    }
    if (s.error[AT_REASONS]) return s.error[AT_REASONS];
    return s.no_environment ? NOT_SUPPORTED : OK;
}

static int list_processes(const ids_t *always, const spells_t *between, unsigned int *count, process_t *processes) {
    if (s.error[AT_PROCESSES]) return s.error[AT_PROCESSES];
    if (s.no_environment) return NOT_SUPPORTED;
    process_t found[2 * MAX];
    unsigned int n = 0, room = *count;
    double t = now();
    for (int i = 0; i < always->n; i++) found[n++] = (process_t){always->is[i], 1 << 20, ~0u, ~0u};
    for (int i = 0; between && i < between->n; i++) {
        const spell_t *spell = &between->is[i];
        if (spell->from <= t && t < spell->to) found[n++] = (process_t){(unsigned int)spell->value, 1 << 20, ~0u, ~0u};
    }
    *count = n;
    if (room < n) return TOO_SMALL;
    if (n) memcpy(processes, found, n * sizeof *found);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    (void)handle;
    return list_processes(&s.pids, &s.pids_between, count, processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    (void)handle;
    return list_processes(&s.graphics_pids, NULL, count, processes);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    (void)handle;
    return list_processes(&s.mps_pids, NULL, count, processes);
}
