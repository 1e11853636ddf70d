/* What one core can do: float32 multiply-adds in registers, and reading or copying a working set.
 * Vector width comes from the compiler's target; every loop runs for a given number of passes. */
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define BYTES 64
#define REGISTER "+v"
#elif defined(__AVX__)
#define BYTES 32
#define REGISTER "+x"
#elif defined(__aarch64__)
#define BYTES 16
#define REGISTER "+w"
#else
#define BYTES 16
#define REGISTER "+x"
#endif
#define LANES (BYTES / 4)
#define UNROLL 12

typedef float vec __attribute__((vector_size(BYTES), aligned(4)));

int bench_vector_bytes(void) { return BYTES; }

/* Flops done: passes * UNROLL * LANES * 2. Twelve chains cover the latency of two FMA ports. */
int64_t bench_fma(int64_t passes, float *sink) {
  vec a[UNROLL], m = (vec){0} + 0.999f, c = (vec){0} + 0.001f;
#pragma clang loop unroll(full)
  for (int i = 0; i < UNROLL; i++) a[i] = (vec){0} + (float)i;
  for (int64_t p = 0; p < passes; p++) {
#pragma clang loop unroll(full)
    for (int i = 0; i < UNROLL; i++) {
      a[i] = a[i] * m + c;
      __asm__ volatile("" : REGISTER(a[i]));
    }
  }
  vec total = a[0];
  for (int i = 1; i < UNROLL; i++) total += a[i];
  for (int l = 0; l < LANES; l++) sink[l] = total[l];
  return passes * UNROLL * LANES * 2;
}

/* Bytes read: passes * bytes. The buffer's size is a multiple of eight vectors. */
int64_t bench_read(const float *x, int64_t bytes, int64_t passes, float *sink) {
  vec a[8];
  for (int i = 0; i < 8; i++) a[i] = (vec){0};
  for (int64_t p = 0; p < passes; p++) {
    const vec *v = (const vec *)x, *end = (const vec *)((const char *)x + bytes);
    for (; v < end; v += 8) {
#pragma clang loop unroll(full)
      for (int i = 0; i < 8; i++) {
        a[i] += v[i];
        __asm__ volatile("" : REGISTER(a[i]));
      }
    }
  }
  vec total = a[0];
  for (int i = 1; i < 8; i++) total += a[i];
  for (int l = 0; l < LANES; l++) sink[l] = total[l];
  return passes * bytes;
}

/* Copies the first half of the buffer to the second. Bytes read plus bytes written: passes * bytes. */
int64_t bench_copy(float *x, int64_t bytes, int64_t passes) {
  for (int64_t p = 0; p < passes; p++) {
    const vec *v = (const vec *)x, *end = (const vec *)((const char *)x + bytes / 2);
    vec *w = (vec *)((char *)x + bytes / 2);
    for (; v < end; v += 4, w += 4) {
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; i++) {
        vec t = v[i];
        __asm__ volatile("" : REGISTER(t));
        w[i] = t;
      }
    }
  }
  return passes * bytes;
}
