// What the generated kernels use of CUDA, without any of its headers: half precision, NaN-keeping max and min, and
// 16x16x16 matrix fragments on tensor cores.
typedef unsigned int sep_u32;
typedef unsigned short sep_u16;
typedef unsigned char uchar;

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

// A comparison with NaN is false, so the second operand wins: constants come first in what is generated.
__device__ __forceinline__ float sep_max(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float sep_min(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ int sep_max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int sep_min(int a, int b) { return a < b ? a : b; }
#define max sep_max
#define min sep_min

// Fragments of a warp's 16x16x16 products, by the instructions below the CUDA headers' interface of this name.
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
enum layout_t { mem_row_major };
template <typename Use, int m, int n, int k, typename T, typename Layout = void> struct fragment { sep_u32 x[4]; };
template <int m, int n, int k> struct fragment<accumulator, m, n, k, float, void> { float x[8]; };

template <typename T> __device__ __forceinline__ sep_u32 sep_row(const T* p, unsigned ld) {
  const unsigned lane = threadIdx.x;
  return (sep_u32)__cvta_generic_to_shared(p + (lane & 15) * ld + (lane >> 4) * 8);
}
template <int m, int n, int k, typename L>
__device__ __forceinline__ void load_matrix_sync(fragment<matrix_a, m, n, k, half, L>& a, const half* p, unsigned ld) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.x[0]), "=r"(a.x[1]), "=r"(a.x[2]), "=r"(a.x[3]) : "r"(sep_row(p, ld)) : "memory");
}
template <int m, int n, int k, typename L>
__device__ __forceinline__ void load_matrix_sync(fragment<matrix_b, m, n, k, half, L>& b, const half* p, unsigned ld) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b.x[0]), "=r"(b.x[1]), "=r"(b.x[2]), "=r"(b.x[3]) : "r"(sep_row(p, ld)) : "memory");
}
template <typename C> __device__ __forceinline__ void fill_fragment(C& c, float value) {
  for (int i = 0; i < 8; ++i) c.x[i] = value;
}
__device__ __forceinline__ void sep_mma(float* c, const sep_u32* a, sep_u32 b0, sep_u32 b1) {
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
template <typename C, typename A, typename B>
__device__ __forceinline__ void mma_sync(C& d, const A& a, const B& b, const C&) {
  sep_mma(d.x, a.x, b.x[0], b.x[1]);
  sep_mma(d.x + 4, a.x, b.x[2], b.x[3]);
}
template <typename C>
__device__ __forceinline__ void store_matrix_sync(float* p, const C& c, unsigned ld, layout_t) {
  float* row = p + (threadIdx.x >> 2) * ld + (threadIdx.x & 3) * 2;
  for (int i = 0; i < 2; ++i) {
    *(float2*)(row + i * 8) = make_float2(c.x[i * 4], c.x[i * 4 + 1]);
    *(float2*)(row + 8 * ld + i * 8) = make_float2(c.x[i * 4 + 2], c.x[i * 4 + 3]);
  }
}
}  // namespace wmma
}  // namespace nvcuda
