/* A stand-in for libcuda.so.1: device memory is host memory filled with NaN, an image is a shared library of kernels
   for the CPU, and launches are checked as a driver would check them. SEP_* variables make it fail on purpose.
   One graph can be recorded at a time; it is a list of launches. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, NO_BINARY = 209, NOT_FOUND = 500, FAILED = 719 };
typedef int (*kernel)(const unsigned *, const unsigned *, void **);
typedef struct { kernel run; int parameters; } function;
typedef struct { function *f; unsigned grid[3], block[3]; uint64_t values[16]; } node;
typedef struct { int count; node nodes[4096]; } graph;

static int depth;
static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

int cuInit(unsigned flags) { return flags ? INVALID : OK; }
int cuDeviceGetCount(int *count) { *count = (int)number("SEP_GPUS", 1); return OK; }
int cuDeviceGet(int *device, int n) { *device = n; return OK; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "stand-in %d", device); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  long capability = number("SEP_CAPABILITY", 90);
  *value = attribute == 38 ? 4096 : (int)(attribute == 75 ? capability / 10 : capability % 10);
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return OK; }
int cuCtxPushCurrent_v2(void *context) { depth++; return context ? OK : INVALID; }
int cuCtxPopCurrent_v2(void **context) { *context = 0; return depth-- > 0 ? OK : INVALID; }
int standin_depth(void) { return depth; }

int cuModuleLoadData(void **module, const void *image) {
  const unsigned char *e = image;
  if (memcmp(e, "\177ELF", 4)) return NO_BINARY;
  uint64_t sections;
  uint16_t size, count;
  memcpy(&sections, e + 40, 8);
  memcpy(&size, e + 58, 2);
  memcpy(&count, e + 60, 2);
  int file = memfd_create("kernels", 0);
  size_t whole = sections + (size_t)size * count;
  if (write(file, image, whole) != (ssize_t)whole) return INVALID;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  return *module ? OK : NO_BINARY;
}
int cuModuleGetFunction(void **found, void *module, const char *name) {
  char symbol[512];
  function *f = malloc(sizeof *f);
  snprintf(symbol, sizeof symbol, "run_%s", name);
  f->run = (kernel)dlsym(module, symbol);
  snprintf(symbol, sizeof symbol, "count_%s", name);
  int *count = dlsym(module, symbol);
  if (!f->run || !count) return NOT_FOUND;
  f->parameters = *count;
  *found = f;
  return OK;
}

static long used;
int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
  if (depth < 1) return INVALID;
  if (used + (long)size > number("SEP_MEMORY", 1L << 40)) return MEMORY;
  char *block = aligned_alloc(256, (size + 511) / 256 * 256);
  memset(block, 0xFF, size);
  used += size;
  *pointer = (uint64_t)(uintptr_t)block;
  return OK;
}
int cuMemFree_v2(uint64_t pointer) { free((void *)(uintptr_t)pointer); return OK; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size) { memcpy((void *)(uintptr_t)to, from, size); return OK; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size) { memcpy(to, (void *)(uintptr_t)from, size); return OK; }
static int waits;
int standin_waits(void) { return waits; }
int cuStreamSynchronize(void *stream) { waits++; return depth < 1 ? INVALID : OK; }
static graph *recording;
int cuStreamIsCapturing(void *stream, int *state) {
  *state = recording ? 1 : (int)number("SEP_CAPTURING", 0);
  return OK;
}
int cuThreadExchangeStreamCaptureMode(int *mode) { static int now; int old = now; now = *mode; *mode = old; return OK; }

static void *last_stream;
void *standin_stream(void) { return last_stream; }
int cuLaunchKernel(function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **extra) {
  node n = {f, {gx, gy, gz}, {bx, by, bz}, {0}};
  if (depth < 1 || !gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535) return INVALID;
  if (!bx || !by || !bz || bx * by * bz > 1024 || bz > 64 || shared > 49152 || extra) return INVALID;
  last_stream = stream;
  if (!recording) return f->run(n.grid, n.block, params) ? FAILED : OK;
  if (recording->count == 4096 || f->parameters > 16) return INVALID;
  for (int i = 0; i < f->parameters; i++) memcpy(&n.values[i], params[i], 8);
  recording->nodes[recording->count++] = n;
  return OK;
}

int cuStreamCreate(void **stream, unsigned flags) { *stream = malloc(1); return flags <= 1 ? OK : INVALID; }
int cuStreamDestroy_v2(void *stream) { free(stream); return OK; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
  if (recording || !stream || mode > 2) return INVALID;
  return (recording = calloc(1, sizeof *recording)) ? OK : MEMORY;
}
int cuStreamEndCapture(void *stream, graph **found) { *found = recording; recording = 0; return *found ? OK : INVALID; }
int cuGraphInstantiateWithFlags(graph **made, graph *from, unsigned long long flags) {
  *made = malloc(sizeof **made);
  memcpy(*made, from, sizeof *from);
  return flags ? INVALID : OK;
}
int cuGraphDestroy(graph *g) { free(g); return OK; }
int cuGraphExecDestroy(graph *g) { free(g); return OK; }
int cuGraphLaunch(graph *g, void *stream) {
  for (int i = 0; i < g->count; i++) {
    void *params[16];
    for (int k = 0; k < 16; k++) params[k] = &g->nodes[i].values[k];
    if (g->nodes[i].f->run(g->nodes[i].grid, g->nodes[i].block, params)) return FAILED;
  }
  return OK;
}

static double milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}
int cuEventCreate(double **event, unsigned flags) { *event = calloc(1, sizeof **event); return flags ? INVALID : OK; }
int cuEventDestroy_v2(double *event) { free(event); return OK; }
int cuEventRecord(double *event, void *stream) { *event = milliseconds(); return OK; }
int cuEventSynchronize(double *event) { return event ? OK : INVALID; }
int cuEventElapsedTime(float *took, double *begin, double *end) { *took = *end - *begin; return OK; }

int cuGetErrorName(int status, const char **text) {
  *text = status == MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : status == FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR";
  return OK;
}
int cuGetErrorString(int status, const char **text) { *text = "as the stand-in driver was told"; return OK; }
