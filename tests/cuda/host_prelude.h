/* CUDA's execution model on a CPU: the threads of a block are fibers; a barrier, and an instruction of a whole warp, yields
   to the others.

   SEP_ORDER says which thread runs first wherever several may: 0 always the first, 1 always the last, 2 a shuffled order
   that changes at each barrier. From 3 on the same, and copies to shared memory happen at once instead of as late as their
   thread allows. SEP_SKIP is the number of a barrier to leave out. Shared memory starts out as NaN in every block. */
#define _XOPEN_SOURCE 700
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

struct sep_dim { unsigned x, y, z; };
static sep_dim threadIdx, blockIdx, blockDim, gridDim;

#define SEP_EMULATED
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("sepshared")))
#define sqrtf __builtin_sqrtf

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }

struct half {
  _Float16 value;
  half() = default;
  explicit half(float x) : value((_Float16)x) {}
  operator float() const { return (float)value; }
};
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };
static inline half __float2half_rn(float x) { return half(x); }
static inline unsigned __pack_half2(half x, half y) {
  uint16_t a, b;
  memcpy(&a, &x, 2);
  memcpy(&b, &y, 2);
  return a | ((unsigned)b << 16);
}
static inline half2 make_half2(half x, half y) { return {x, y}; }
static inline half4 make_half4(half x, half y, half z, half w) { return {x, y, z, w}; }

/* ---- fibers ---- */
enum { READY, AT_BARRIER, DONE, IN_WARP };
static const int SEP_STACK = 64 * 1024, SEP_MOST = 1024, SEP_COPIES = 128;
static ucontext_t sep_scheduler, sep_fibers[SEP_MOST];
static char *sep_stacks;
static int sep_state[SEP_MOST], sep_now, sep_threads, sep_skip, sep_order;
static void (*sep_body)(void **);
static void **sep_params;
extern "C" char __start_sepshared[] __attribute__((weak));
extern "C" char __stop_sepshared[] __attribute__((weak));

static void sep_yield(int state) {
  sep_state[sep_now] = state;
  swapcontext(&sep_fibers[sep_now], &sep_scheduler);
}
static void sep_barrier(int number) {
  if (number != sep_skip) sep_yield(AT_BARRIER);
}
static void sep_thread() {
  sep_body(sep_params);
  sep_yield(DONE);
}

/* ---- warps: each lane shows eight words to the others; two areas, since a lane may be one instruction ahead ---- */
static unsigned sep_area[SEP_MOST / 32][2][32][8], sep_meets[SEP_MOST];
static unsigned (*sep_meet(const unsigned *words, int count))[8] {
  unsigned(*area)[8] = sep_area[sep_now / 32][sep_meets[sep_now]++ & 1];
  memcpy(area[sep_now % 32], words, 4 * count);
  sep_yield(IN_WARP);
  return area;
}
static inline unsigned __shfl_sync(unsigned, unsigned value, unsigned lane) { return sep_meet(&value, 1)[lane][0]; }
static uint16_t sep_element(unsigned (*area)[8], int matrix, int row, int column) {
  const char *start;
  memcpy(&start, area[matrix * 8 + row], 8);
  uint16_t value;
  memcpy(&value, start + 2 * column, 2);
  return value;
}
static void sep_ldmatrix(unsigned *x, const void *row) {
  unsigned words[2];
  memcpy(words, &row, 8);
  unsigned(*area)[8] = sep_meet(words, 2), r = sep_now % 32 / 4, c = sep_now % 4 * 2;
  for (int i = 0; i < 4; i++) x[i] = sep_element(area, i, r, c) | (unsigned)sep_element(area, i, r, c + 1) << 16;
}
static void sep_ldmatrix_trans(unsigned *x, const void *row) {
  unsigned words[2];
  memcpy(words, &row, 8);
  unsigned(*area)[8] = sep_meet(words, 2), r = sep_now % 4 * 2, c = sep_now % 32 / 4;
  for (int i = 0; i < 4; i++) x[i] = sep_element(area, i, r, c) | (unsigned)sep_element(area, i, r + 1, c) << 16;
}
static inline unsigned sep_tf32(float x) { /* to nearest, ties away from zero */
  return x == x ? (__float_as_uint(x) + 0x1000u) & ~0x1fffu : 0x7fffffffu;
}
static float sep_f16(unsigned word, int part) {
  uint16_t bits = part ? word >> 16 : word;
  _Float16 value;
  memcpy(&value, &bits, 2);
  return value;
}
static float sep_bf16(unsigned word, int part) { return __uint_as_float(part ? word & 0xffff0000u : word << 16); }
static float sep_f32(unsigned word, int) { return __uint_as_float(word & ~0x1fffu); }
/* 16x8 sums of a lane: rows lane / 4 and lane / 4 + 8, columns lane % 4 * 2 and the next; `parts` elements per register. */
static void sep_multiply(float *c, const unsigned *a, unsigned b0, unsigned b1, int parts, float value(unsigned, int)) {
  unsigned words[6] = {a[0], a[1], a[2], a[3], b0, b1}, lane = sep_now % 32;
  unsigned(*area)[8] = sep_meet(words, 6);
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 8 * parts; k++) {
      int row = lane / 4, column = lane % 4 * 2 + i % 2, at = k % (4 * parts) / parts, upper = k / (4 * parts);
      c[i] += value(area[row * 4 + at][i / 2 + 2 * upper], k % parts) * value(area[column * 4 + at][4 + upper], k % parts);
    }
}
#ifdef SEP_SOFTWARE_MMA
#define SEP_SOFTWARE
#else
static void sep_instruction_bf16(float *c, const unsigned *a, unsigned b0, unsigned b1) { sep_multiply(c, a, b0, b1, 2, sep_bf16); }
static void sep_instruction_tf32(float *c, const unsigned *a, unsigned b0, unsigned b1) { sep_multiply(c, a, b0, b1, 1, sep_f32); }
#endif
static void sep_instruction_f16(float *c, const unsigned *a, unsigned b0, unsigned b1) { sep_multiply(c, a, b0, b1, 2, sep_f16); }

/* ---- copies that do not wait ---- */
struct sep_pending { void *to; const void *from; int bytes, group; };
static sep_pending sep_pendings[SEP_MOST][SEP_COPIES];
static int sep_waiting[SEP_MOST], sep_group[SEP_MOST];
static void sep_finish(const sep_pending &copy) {
  if (copy.from) memcpy(copy.to, copy.from, copy.bytes); else memset(copy.to, 0, copy.bytes);
}
template <int bytes> static void sep_copy(void *to, const void *from, bool inside) {
  sep_pending copy = {to, inside ? from : 0, bytes, sep_group[sep_now]};
  if ((uintptr_t)to % bytes || (inside && (uintptr_t)from % bytes)) abort();
  if (sep_order >= 3) sep_finish(copy);
  else if (sep_waiting[sep_now] == SEP_COPIES) abort();
  else sep_pendings[sep_now][sep_waiting[sep_now]++] = copy;
}
static void sep_commit() { sep_group[sep_now]++; }
template <int left> static void sep_wait() {
  int kept = 0;
  for (int i = 0; i < sep_waiting[sep_now]; i++) {
    sep_pending copy = sep_pendings[sep_now][i];
    if (copy.group < sep_group[sep_now] - left) sep_finish(copy);
    else sep_pendings[sep_now][kept++] = copy;
  }
  sep_waiting[sep_now] = kept;
}

#include "cuda_prelude.cu"

static uint32_t sep_random;
static uint32_t sep_next() {
  sep_random ^= sep_random << 13;
  sep_random ^= sep_random >> 17;
  sep_random ^= sep_random << 5;
  return sep_random;
}

static int sep_places[SEP_MOST];
static void sep_shuffle() {
  for (int i = 0; i < sep_threads; i++) sep_places[i] = sep_order % 3 == 1 ? sep_threads - 1 - i : i;
  for (int i = sep_threads - 1; i > 0 && sep_order % 3 == 2; i--) {
    int j = sep_next() % (i + 1), k = sep_places[i];
    sep_places[i] = sep_places[j];
    sep_places[j] = k;
  }
}

/* Makes threads ready that wait for no one any more; whether there are any. */
static int sep_release() {
  int any = 0, waiting = 0;
  for (int t = 0; t < sep_threads; t++) waiting += sep_state[t] == AT_BARRIER;
  if (waiting == sep_threads) sep_shuffle();
  for (int w = 0; w < sep_threads; w += 32) {
    int inside = 0, end = w + 32 < sep_threads ? w + 32 : sep_threads;
    for (int t = w; t < end; t++) inside += sep_state[t] == IN_WARP;
    for (int t = w; t < end && (inside == end - w || waiting == sep_threads); t++) sep_state[t] = READY, any = 1;
  }
  return any;
}

/* One block. Returns 1 where some threads wait for others that never come. */
static int sep_block(int threads) {
  sep_threads = threads;
  if (__start_sepshared) memset(__start_sepshared, 0xFF, __stop_sepshared - __start_sepshared);
  for (int t = 0; t < threads; t++) {
    getcontext(&sep_fibers[t]);
    sep_fibers[t].uc_stack.ss_sp = sep_stacks + (size_t)t * SEP_STACK;
    sep_fibers[t].uc_stack.ss_size = SEP_STACK;
    sep_fibers[t].uc_link = &sep_scheduler;
    makecontext(&sep_fibers[t], sep_thread, 0);
    sep_state[t] = READY;
    sep_meets[t] = sep_waiting[t] = sep_group[t] = 0;
  }
  sep_shuffle();
  for (;;) {
    /* A whole warp at a time, so that the first warp is as far ahead of the others as barriers let it be. */
    int ran = 0;
    for (int i = 0; i < threads; i++) {
      int t = sep_places[i];
      if (sep_state[t] != READY || (ran && t / 32 != sep_now / 32)) continue;
      sep_now = t;
      ran = 1;
      threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
      swapcontext(&sep_scheduler, &sep_fibers[t]);
    }
    if (sep_release() || ran) continue;
    int done = 0;
    for (int t = 0; t < threads; t++) done += sep_state[t] == DONE;
    return done != threads;
  }
}

static int sep_number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}
static int sep_run(void (*body)(void **), const unsigned *grid, const unsigned *block, void **params) {
  if (!sep_stacks) sep_stacks = (char *)malloc((size_t)SEP_MOST * SEP_STACK);
  sep_skip = sep_number("SEP_SKIP", -1);
  sep_order = sep_number("SEP_ORDER", 2);
  sep_random = 1;
  sep_body = body;
  sep_params = params;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  for (unsigned y = 0; y < grid[1]; y++)
    for (unsigned x = 0; x < grid[0]; x++) {
      blockIdx = {x, y, 0};
      if (sep_block(block[0] * block[1] * block[2])) return 1;
    }
  return 0;
}
