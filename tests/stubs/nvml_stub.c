/* A libnvidia-ml.so.1 without a GPU, so that the real Python bindings can be driven end to end.
 *
 * Power over time is known, hence so is the true energy of any window. The script is a text file named by the
 * environment variable NVML_STUB, one "key value..." a line:
 *
 *   gpus N                    number of GPUs (1); GPU i draws 50 W * i more than the script says, and updates i/3 period later
 *   segment SECONDS WATTS     power over time: the segments follow each other and repeat (one of 300 W)
 *   epoch SECONDS             CLOCK_MONOTONIC time at which the first segment begins (0)
 *   period_ms N               update period of the energy counter (100)
 *   power_period_ms N         update period of the power readings (100)
 *   average_scale X           the averaged field reads X times the instant one (1), to tell the two apart
 *   names A B ...             names of the GPUs (all "Stub GPU")
 *   no_counter 1              the energy counter is not supported
 *   no_field ID               this power field is not supported (may be repeated)
 *   no_power 1                nvmlDeviceGetPowerUsage is not supported
 *   no_environment 1          temperature, clocks, reasons and processes are not supported
 *   mig 1                     MIG is enabled
 *   reasons MASK              clock event reasons (0)
 *   pid N                     a compute process on every GPU (may be repeated)
 *   init_error CODE           nvmlInit fails
 *   lost PATH                 from when this file exists, every reading says that the GPU is lost
 *   reset PATH                from when this file exists, the counter restarts from zero
 *   frozen PATH               from when this file exists, the counter stands still
 *
 * Energy is counted from the epoch. Values are of the last update before the call.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };
enum { MAX = 16 };

typedef struct { unsigned int id, scope; int64_t timestamp, latency; int type, ret; uint64_t value; } field_t;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } process_t;

static struct {
    int gpus, no_counter, no_power, no_environment, mig, init_error, segments, no_fields, pids;
    double epoch, period, power_period, average_scale, seconds[MAX], watts[MAX], frozen_at;
    unsigned long long reasons;
    unsigned int no_field[MAX], pid[MAX];
    char names[MAX][64], lost[900], reset[900], frozen[900];
} s;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int exists(const char *path) { return *path && access(path, F_OK) == 0; }

static void load(void) {
    char line[1024], key[64], rest[900];
    memset(&s, 0, sizeof s);
    s.gpus = 1;
    s.period = s.power_period = 0.1;
    s.average_scale = 1;
    for (int i = 0; i < MAX; i++) strcpy(s.names[i], "Stub GPU");
    FILE *file = getenv("NVML_STUB") ? fopen(getenv("NVML_STUB"), "r") : NULL;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63s %899[^\n]", key, rest) != 2) continue;
        if (!strcmp(key, "gpus")) s.gpus = atoi(rest);
        else if (!strcmp(key, "segment") && s.segments < MAX) {
            sscanf(rest, "%lf %lf", &s.seconds[s.segments], &s.watts[s.segments]);
            s.segments++;
        }
        else if (!strcmp(key, "epoch")) s.epoch = atof(rest);
        else if (!strcmp(key, "period_ms")) s.period = atof(rest) / 1e3;
        else if (!strcmp(key, "power_period_ms")) s.power_period = atof(rest) / 1e3;
        else if (!strcmp(key, "average_scale")) s.average_scale = atof(rest);
        else if (!strcmp(key, "names")) {
            int i = 0;
            for (char *word = strtok(rest, " "); word && i < MAX; word = strtok(NULL, " ")) snprintf(s.names[i++], 64, "%s", word);
        }
        else if (!strcmp(key, "no_counter")) s.no_counter = atoi(rest);
        else if (!strcmp(key, "no_field") && s.no_fields < MAX) s.no_field[s.no_fields++] = atoi(rest);
        else if (!strcmp(key, "no_power")) s.no_power = atoi(rest);
        else if (!strcmp(key, "no_environment")) s.no_environment = atoi(rest);
        else if (!strcmp(key, "mig")) s.mig = atoi(rest);
        else if (!strcmp(key, "reasons")) s.reasons = strtoull(rest, NULL, 0);
        else if (!strcmp(key, "pid") && s.pids < MAX) s.pid[s.pids++] = atoi(rest);
        else if (!strcmp(key, "init_error")) s.init_error = atoi(rest);
        else if (!strcmp(key, "lost")) strcpy(s.lost, rest);
        else if (!strcmp(key, "reset")) strcpy(s.reset, rest);
        else if (!strcmp(key, "frozen")) strcpy(s.frozen, rest);
        else { fprintf(stderr, "nvml stub: unknown key %s\n", key); abort(); }
    }
    if (file) fclose(file);
    if (!s.segments) { s.segments = 1; s.seconds[0] = 1; s.watts[0] = 300; }
}

/* Joules from the epoch to t, and watts at t, of GPU 0. */
static double energy(double t, double *power) {
    double cycle_s = 0, cycle_j = 0;
    for (int i = 0; i < s.segments; i++) { cycle_s += s.seconds[i]; cycle_j += s.seconds[i] * s.watts[i]; }
    double cycles = floor((t - s.epoch) / cycle_s), left = t - s.epoch - cycles * cycle_s, joules = cycles * cycle_j;
    int i = 0;
    for (; i < s.segments - 1 && left >= s.seconds[i]; i++) { joules += s.seconds[i] * s.watts[i]; left -= s.seconds[i]; }
    if (power) *power = s.watts[i];
    return joules + left * s.watts[i];
}

static int gpu_of(void *handle) { return (int)((intptr_t)handle - 1); }

static double last_update(double period, void *handle) {
    double shift = s.epoch + period * gpu_of(handle) / 3;
    return shift + floor((now() - shift) / period) * period;
}

static double watts_now(void *handle) {
    double power;
    energy(last_update(s.power_period, handle), &power);
    return power + 50.0 * gpu_of(handle);
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; load(); return s.init_error; }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    default: return "Stub error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned int n) { snprintf(text, n, "999.1"); return OK; }
int nvmlSystemGetNVMLVersion(char *text, unsigned int n) { snprintf(text, n, "13.999.1"); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = s.gpus; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    if ((int)index >= s.gpus) return INVALID;
    *handle = (void *)(intptr_t)(index + 1);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int n) {
    snprintf(text, n, "GPU-%d0000000-feed-beef-0000-00000000000%d", gpu_of(handle) + 1, gpu_of(handle));
    return OK;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned int n) { snprintf(text, n, "%s", s.names[gpu_of(handle)]); return OK; }
int nvmlDeviceGetVbiosVersion(void *handle, char *text, unsigned int n) { (void)handle; snprintf(text, n, "00.11.22"); return OK; }
int nvmlDeviceGetPersistenceMode(void *handle, unsigned int *mode) { (void)handle; *mode = 1; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned int *mw) { (void)handle; *mw = 350000; return OK; }
int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned int *mw) { (void)handle; *mw = 400000; return OK; }
int nvmlDeviceGetPowerManagementDefaultLimit(void *handle, unsigned int *mw) { (void)handle; *mw = 400000; return OK; }

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    (void)handle;
    *current = *pending = s.mig;
    return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *mj) {
    static double reset_at, frozen_at;
    if (exists(s.lost)) return LOST;
    if (s.no_counter) return NOT_SUPPORTED;
    double t = last_update(s.period, handle);
    if (exists(s.frozen)) { if (!frozen_at) frozen_at = t; t = frozen_at; }
    if (exists(s.reset) && !reset_at) reset_at = t;
    double from = reset_at ? reset_at : s.epoch, extra_w = 50.0 * gpu_of(handle);
    *mj = (unsigned long long)((energy(t, NULL) - energy(from, NULL) + extra_w * (t - from)) * 1e3 + 0.5);
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned int *mw) {
    if (exists(s.lost)) return LOST;
    if (s.no_power) return NOT_SUPPORTED;
    *mw = (unsigned int)(watts_now(handle) * 1e3 + 0.5);
    return OK;
}

int nvmlDeviceGetFieldValues(void *handle, int count, field_t *fields) {
    if (exists(s.lost)) return LOST;
    for (int i = 0; i < count; i++) {
        field_t *f = &fields[i];
        f->ret = f->id == 185 || f->id == 186 ? OK : NOT_SUPPORTED;
        for (int k = 0; k < s.no_fields; k++) if (s.no_field[k] == f->id) f->ret = NOT_SUPPORTED;
        f->type = 1;
        f->value = (uint64_t)(watts_now(handle) * (f->id == 185 ? s.average_scale : 1) * 1e3 + 0.5);
    }
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    (void)handle, (void)sensor;
    *celsius = 55;
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetClockInfo(void *handle, int kind, unsigned int *mhz) {
    (void)handle;
    *mhz = kind == 1 ? 1755 : 0;
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *mask) {
    (void)handle;
    *mask = s.reasons;
    return s.no_environment ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    (void)handle;
    if (s.no_environment) return NOT_SUPPORTED;
    unsigned int room = *count;
    *count = s.pids;
    if (room < (unsigned int)s.pids) return TOO_SMALL;
    for (int i = 0; i < s.pids; i++) processes[i] = (process_t){s.pid[i], 1 << 20, ~0u, ~0u};
    return OK;
}
