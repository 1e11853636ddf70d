// What the generated kernels use of CUDA, without any of its headers: 16-bit floats, NaN-keeping max and min, matrix
// fragments on tensor cores and copies that do not wait. The instructions themselves come first; the tests run the rest
// on a CPU with instructions of their own (SEP_EMULATED).
typedef unsigned int sep_u32;
typedef unsigned short sep_u16;
typedef unsigned char uchar;
typedef unsigned int uint;

#ifndef SEP_EMULATED
struct alignas(2) half {
  sep_u16 bits;
  half() = default;
  __device__ __forceinline__ explicit half(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  __device__ __forceinline__ operator float() const {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
};
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };

__device__ __forceinline__ half __float2half_rn(float x) { return half(x); }
__device__ __forceinline__ sep_u32 __pack_half2(half x, half y) { return x.bits | ((sep_u32)y.bits << 16); }
__device__ __forceinline__ half2 make_half2(half x, half y) { half2 v; v.x = x; v.y = y; return v; }
__device__ __forceinline__ half4 make_half4(half x, half y, half z, half w) {
  half4 v; v.x = x; v.y = y; v.z = z; v.w = w; return v;
}
#endif

// A comparison with NaN is false, so the second operand wins: constants come first in what is generated.
__device__ __forceinline__ float sep_max(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float sep_min(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ int sep_max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int sep_min(int a, int b) { return a < b ? a : b; }
#define max sep_max
#define min sep_min

#ifndef SEP_EMULATED
// Four 8x8 matrices of 16 bits from shared memory, the address of a row from each lane.
__device__ __forceinline__ void sep_ldmatrix(sep_u32* x, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((sep_u32)__cvta_generic_to_shared(row)) : "memory");
}
__device__ __forceinline__ void sep_ldmatrix_trans(sep_u32* x, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((sep_u32)__cvta_generic_to_shared(row)) : "memory");
}
__device__ __forceinline__ sep_u32 sep_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  sep_u32 bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  return __float_as_uint(x);
#endif
}
// 16x8 sums plus a 16x16 (TF32: 16x8) by a 16x8 (TF32: 8x8) matrix.
__device__ __forceinline__ void sep_instruction_f16(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void sep_instruction_bf16(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void sep_instruction_tf32(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Copies to shared memory that run on while their thread does something else; zeros where not `inside`.
template <int bytes> __device__ __forceinline__ void sep_copy(void* to, const void* from, bool inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
               :: "r"((sep_u32)__cvta_generic_to_shared(to)), "l"(from), "n"(bytes), "r"(inside ? bytes : 0) : "memory");
}
template <> __device__ __forceinline__ void sep_copy<16>(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((sep_u32)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}
__device__ __forceinline__ void sep_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left> __device__ __forceinline__ void sep_wait() {
  asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory");
}
#else
#define SEP_SOFTWARE
template <int bytes> __device__ __forceinline__ void sep_copy(void* to, const void* from, bool inside) {
  for (int i = 0; i < bytes / 4; ++i) ((sep_u32*)to)[i] = inside ? ((const sep_u32*)from)[i] : 0;
}
template <> __device__ __forceinline__ void sep_copy<16>(void* to, const void* from, bool inside) {
  *(uint4*)to = inside ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void sep_commit() {}
template <int left> __device__ __forceinline__ void sep_wait() {}
#endif
#endif  // SEP_EMULATED

#ifdef SEP_SOFTWARE
// Turing's tensor cores know neither bfloat16 nor TF32: its lanes hand each other the operands of a 16x8 product.
// Lane l holds rows l / 4 and l / 4 + 8 of the left operand and column l / 4 of the right one, two sums of each row.
template <int steps, typename Value>
__device__ __forceinline__ void sep_product(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1, Value value) {
  const unsigned lane = threadIdx.x, row = lane & 28, column = (lane & 3) * 8;
#pragma unroll 1  // small code: what is unrolled above it is large already
  for (int k = 0; k < 8; ++k) {
    const unsigned at = k & 3;
    sep_u32 upper = __shfl_sync(~0u, k < 4 ? a[0] : a[2], row + at), lower = __shfl_sync(~0u, k < 4 ? a[1] : a[3], row + at);
    sep_u32 first = __shfl_sync(~0u, k < 4 ? b0 : b1, column + at), second = __shfl_sync(~0u, k < 4 ? b0 : b1, column + 4 + at);
    for (int i = 0; i < steps; ++i) {
      c[0] += value(upper, i) * value(first, i);
      c[1] += value(upper, i) * value(second, i);
      c[2] += value(lower, i) * value(first, i);
      c[3] += value(lower, i) * value(second, i);
    }
  }
}
struct sep_bf16_at { __device__ float operator()(sep_u32 x, int i) const { return __uint_as_float(i ? x & 0xffff0000u : x << 16); } };
struct sep_tf32_at { __device__ float operator()(sep_u32 x, int) const { return __uint_as_float(x); } };
__device__ __forceinline__ void sep_instruction_bf16(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
  sep_product<2>(c, a, b0, b1, sep_bf16_at());
}
__device__ __forceinline__ void sep_instruction_tf32(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
  sep_product<1>(c, a, b0, b1, sep_tf32_at());
}
#endif

// bfloat16 is the upper half of a float32; rounded to nearest, ties to even.
struct alignas(2) nv_bfloat16 {
  sep_u16 bits;
  nv_bfloat16() = default;
  __device__ __forceinline__ explicit nv_bfloat16(float x) {
    const sep_u32 u = __float_as_uint(x);
    bits = (x == x) ? (sep_u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16) : (sep_u16)((u >> 16) | 0x40u);
  }
  __device__ __forceinline__ operator float() const { return __uint_as_float((sep_u32)bits << 16); }
};
typedef nv_bfloat16 __nv_bfloat16;
struct alignas(4) nv_bfloat162 { nv_bfloat16 x, y; };
typedef nv_bfloat162 __nv_bfloat162;
struct alignas(8) nv_bfloat164 { nv_bfloat16 x, y, z, w; };
__device__ __forceinline__ nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
__device__ __forceinline__ nv_bfloat162 make_nv_bfloat162(nv_bfloat16 x, nv_bfloat16 y) {
  nv_bfloat162 v; v.x = x; v.y = y; return v;
}
__device__ __forceinline__ nv_bfloat164 make_nv_bfloat164(nv_bfloat16 x, nv_bfloat16 y, nv_bfloat16 z, nv_bfloat16 w) {
  nv_bfloat164 v; v.x = x; v.y = y; v.z = z; v.w = w; return v;
}
__device__ __forceinline__ sep_u32 __pack_nv_bfloat162(nv_bfloat16 x, nv_bfloat16 y) { return x.bits | ((sep_u32)y.bits << 16); }

// A warp's fragments, in registers of its lanes: a 16x16 operand of 16-bit elements, or 16x8 (left) and 8x16 (right) of
// TF32, is four of each lane; 16x16 sums are eight.
__device__ __forceinline__ void sep_fill(float* c, float value) {
  for (int i = 0; i < 8; ++i) c[i] = value;
}
template <typename T> __device__ __forceinline__ const T* sep_row(const T* p, unsigned ld) {
  const unsigned lane = threadIdx.x;
  return p + (lane & 15) * ld + (lane >> 4) * (16 / sizeof(T));
}
template <typename T> __device__ __forceinline__ void sep_load_a(sep_u32* a, const T* p, unsigned ld) {
  sep_ldmatrix(a, sep_row(p, ld));
}
// In 32-bit elements the same instruction gives each lane one of each matrix of 8x4.
__device__ __forceinline__ void sep_load_a(sep_u32* a, const float* p, unsigned ld) {
  sep_ldmatrix(a, sep_row(p, ld));
  for (int i = 0; i < 4; ++i) a[i] = sep_tf32(__uint_as_float(a[i]));
}
template <typename T> __device__ __forceinline__ void sep_load_b(sep_u32* b, const T* p, unsigned ld) {
  sep_ldmatrix_trans(b, sep_row(p, ld));
}
__device__ __forceinline__ void sep_load_b(sep_u32* b, const float* p, unsigned ld) {
  const float* q = p + (threadIdx.x & 3) * ld + (threadIdx.x >> 2);
  for (int i = 0; i < 4; ++i) b[i] = sep_tf32(q[(i & 1) * 4 * ld + (i >> 1) * 8]);
}
#define SEP_MMA(type)                                                                                \
  __device__ __forceinline__ void sep_mma_##type(float* c, const sep_u32* a, const sep_u32* b) {     \
    sep_instruction_##type(c, a, b[0], b[1]);                                                        \
    sep_instruction_##type(c + 4, a, b[2], b[3]);                                                    \
  }
SEP_MMA(f16)
SEP_MMA(bf16)
SEP_MMA(tf32)
__device__ __forceinline__ void sep_store(float* p, const float* c, unsigned ld) {
  float* row = p + (threadIdx.x >> 2) * ld + (threadIdx.x & 3) * 2;
  for (int i = 0; i < 2; ++i) {
    *(float2*)(row + i * 8) = make_float2(c[i * 4], c[i * 4 + 1]);
    *(float2*)(row + 8 * ld + i * 8) = make_float2(c[i * 4 + 2], c[i * 4 + 3]);
  }
}
