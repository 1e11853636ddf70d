/* A stand-in for libcuda.so.1: device memory is host memory filled with NaN, an image is a shared library of kernels
   for the CPU, and launches are checked as a driver would check them. SEP_* variables make it fail on purpose. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, NO_BINARY = 209, NOT_FOUND = 500, FAILED = 719 };
typedef int (*kernel)(const unsigned *, const unsigned *, void **);

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
  *value = (int)(attribute == 75 ? capability / 10 : capability % 10);
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
int cuModuleGetFunction(void **function, void *module, const char *name) {
  char symbol[512];
  snprintf(symbol, sizeof symbol, "run_%s", name);
  *function = dlsym(module, symbol);
  return *function ? OK : NOT_FOUND;
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
int cuStreamSynchronize(void *stream) { return OK; }
int cuStreamIsCapturing(void *stream, int *state) { *state = (int)number("SEP_CAPTURING", 0); return OK; }
int cuThreadExchangeStreamCaptureMode(int *mode) { static int now; int old = now; now = *mode; *mode = old; return OK; }

static void *last_stream;
void *standin_stream(void) { return last_stream; }
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **params, void **extra) {
  unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  if (depth < 1 || !gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535) return INVALID;
  if (!bx || !by || !bz || bx * by * bz > 1024 || bz > 64 || shared > 49152 || extra) return INVALID;
  last_stream = stream;
  return ((kernel)function)(grid, block, params) ? FAILED : OK;
}
int cuGetErrorName(int status, const char **text) {
  *text = status == MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : status == FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR";
  return OK;
}
int cuGetErrorString(int status, const char **text) { *text = "as the stand-in driver was told"; return OK; }
