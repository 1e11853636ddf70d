/* CUDA's execution model on a CPU: the threads of a block are fibers, and a barrier yields to the others.

   Between two barriers the threads run in a shuffled order, so that a result that depends on the order shows. Shared
   memory starts out as NaN in every block. */
#define _XOPEN_SOURCE 700
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

typedef unsigned char uchar;
struct sep_dim { unsigned x, y, z; };
static sep_dim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(n)
#define __shared__ static __attribute__((section("sepshared")))
#define max sep_max
#define min sep_min

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

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
static inline float sep_max(float a, float b) { return a > b ? a : b; }
static inline float sep_min(float a, float b) { return a < b ? a : b; }
static inline int sep_max(int a, int b) { return a > b ? a : b; }
static inline int sep_min(int a, int b) { return a < b ? a : b; }
#define sqrtf __builtin_sqrtf

/* Every lane of a warp holds whole fragments. */
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
enum layout_t { mem_row_major };
template <typename Use, int m, int n, int k, typename T, typename Layout = void> struct fragment { float x[16][16]; };
template <typename F> static void load_matrix_sync(F &f, const half *p, unsigned ld) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) f.x[i][j] = (float)p[i * ld + j];
}
template <typename F> static void fill_fragment(F &f, float value) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) f.x[i][j] = value;
}
template <typename C, typename A, typename B> static void mma_sync(C &d, const A &a, const B &b, const C &) {
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 16; j++) d.x[i][j] += a.x[i][k] * b.x[k][j];
}
template <typename C> static void store_matrix_sync(float *p, const C &c, unsigned ld, layout_t) {
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 16; j++) p[i * ld + j] = c.x[i][j];
}
}  // namespace wmma
}  // namespace nvcuda

/* ---- fibers ---- */
static const int SEP_STACK = 64 * 1024, SEP_MOST = 1024;
static ucontext_t sep_scheduler, sep_fibers[SEP_MOST];
static char *sep_stacks;
static int sep_state[SEP_MOST]; /* 0 running, 1 at a barrier, 2 done */
static int sep_now;
static void (*sep_body)(void **);
static void **sep_params;
extern "C" char __start_sepshared[] __attribute__((weak));
extern "C" char __stop_sepshared[] __attribute__((weak));

static void __syncthreads() {
  sep_state[sep_now] = 1;
  swapcontext(&sep_fibers[sep_now], &sep_scheduler);
}

static void sep_thread() {
  sep_body(sep_params);
  sep_state[sep_now] = 2;
  swapcontext(&sep_fibers[sep_now], &sep_scheduler);
}

static uint32_t sep_random = 1;
static uint32_t sep_next() {
  sep_random ^= sep_random << 13;
  sep_random ^= sep_random >> 17;
  sep_random ^= sep_random << 5;
  return sep_random;
}

/* One block. Returns 1 where some threads wait at a barrier that others never reach. */
static int sep_block(int threads) {
  static int order[SEP_MOST];
  if (__start_sepshared) memset(__start_sepshared, 0xFF, __stop_sepshared - __start_sepshared);
  for (int t = 0; t < threads; t++) {
    getcontext(&sep_fibers[t]);
    sep_fibers[t].uc_stack.ss_sp = sep_stacks + (size_t)t * SEP_STACK;
    sep_fibers[t].uc_stack.ss_size = SEP_STACK;
    sep_fibers[t].uc_link = &sep_scheduler;
    makecontext(&sep_fibers[t], sep_thread, 0);
    sep_state[t] = 0;
    order[t] = t;
  }
  for (;;) {
    for (int i = threads - 1; i > 0; i--) {
      int j = sep_next() % (i + 1), k = order[i];
      order[i] = order[j];
      order[j] = k;
    }
    for (int i = 0; i < threads; i++) {
      sep_now = order[i];
      threadIdx = {sep_now % blockDim.x, sep_now / blockDim.x % blockDim.y, sep_now / (blockDim.x * blockDim.y)};
      swapcontext(&sep_scheduler, &sep_fibers[sep_now]);
    }
    int done = 0;
    for (int t = 0; t < threads; t++) done += sep_state[t] == 2;
    if (done == threads) return 0;
    if (done) return 1;
  }
}

static int sep_run(void (*body)(void **), const unsigned *grid, const unsigned *block, void **params) {
  if (!sep_stacks) sep_stacks = (char *)malloc((size_t)SEP_MOST * SEP_STACK);
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
