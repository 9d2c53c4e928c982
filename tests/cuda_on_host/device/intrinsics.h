// The arithmetic that CUDA has built in, for the host, bit for bit: integers, and those functions
// of 16-bit types that the host side of CUDA's own headers lacks. Part of cuda_on_host.h.
#pragma once

#include <bit>
#include <limits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <class T>
T __ldg(const T* from) {
  return *from;
}

template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  return T(a) < T(b) ? T(b) : T(a);
}

inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(unsigned(v)); }
inline int __clzll(long long v) { return std::countl_zero((unsigned long long)(v)); }
inline int __ffs(int v) { return v ? std::countr_zero(unsigned(v)) + 1 : 0; }
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return unsigned(((uint64_t(high) << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return unsigned((uint64_t(high) << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 15;
    unsigned byte = unsigned(bytes >> (8 * (pick & 7))) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * i);
  }
  return r;
}

inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

namespace cuda_on_host {

// a * b + c rounded to odd: rounding it once more, to a shorter type, is as good as rounding the
// exact sum. The product of two 16-bit numbers is exact.
inline double fma_to_odd(double a, double b, double c) {
  const double product = a * b, sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (c - part);
  if (error == 0 || (std::bit_cast<uint64_t>(sum) & 1)) return sum;
  return std::nextafter(sum, error > 0 ? HUGE_VAL : -HUGE_VAL);
}

// CUDA's own __double2bfloat16 rounds on its way through float, to nearest: once too often here.
inline __nv_bfloat16 odd_to_bfloat16(double v) {
  float f = float(v);
  if (std::isfinite(v) && double(f) != v) {
    if (std::fabs(double(f)) > std::fabs(v)) f = std::nextafter(f, 0.0f);
    f = std::bit_cast<float>(std::bit_cast<unsigned>(f) | 1);
  }
  return __float2bfloat16_rn(f);
}

}  // namespace cuda_on_host

inline __half __hfma(__half a, __half b, __half c) {
  return __double2half(cuda_on_host::fma_to_odd(__half2float(a), __half2float(b), __half2float(c)));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return cuda_on_host::odd_to_bfloat16(
      cuda_on_host::fma_to_odd(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return __nv_bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

// On a device +0 is larger than -0. On the host the headers forget that, here only: of equal
// bfloat16s the first is taken.
namespace cuda_on_host {

inline __half max_nan(__half a, __half b) { return __hmax_nan(a, b); }
inline __half min_nan(__half a, __half b) { return __hmin_nan(a, b); }
inline __nv_bfloat16 max_nan(__nv_bfloat16 a, __nv_bfloat16 b) {
  const bool second = __heq(a, b) && std::signbit(__bfloat162float(a));
  return second ? b : __hmax_nan(a, b);
}
inline __nv_bfloat16 min_nan(__nv_bfloat16 a, __nv_bfloat16 b) {
  const bool second = __heq(a, b) && std::signbit(__bfloat162float(b));
  return second ? b : __hmin_nan(a, b);
}
template <class Two>
Two max2_nan(Two a, Two b) {
  return Two(max_nan(a.x, b.x), max_nan(a.y, b.y));
}
template <class Two>
Two min2_nan(Two a, Two b) {
  return Two(min_nan(a.x, b.x), min_nan(a.y, b.y));
}

}  // namespace cuda_on_host
#define __hmax_nan cuda_on_host::max_nan
#define __hmin_nan cuda_on_host::min_nan
#define __hmax2_nan cuda_on_host::max2_nan
#define __hmin2_nan cuda_on_host::min2_nan
