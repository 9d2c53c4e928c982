// A vector of eight float64 lanes in two registers, with AVX2 and FMA. vector.h describes the
// interface. This target does not use the vector of generic.h for float64, because compilers split
// one of this size into single elements.
#pragma once

#include "cpu/simd/prelude.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

struct Avx2F64 {
  using Scalar = double;
  using LaneBits = uint8_t;
  typedef int64_t HalfMask __attribute__((vector_size(32)));
  struct Mask {
    HalfMask lo, hi;
  };
  static constexpr int kLanes = 8;

  __m256d lo, hi;

  static Avx2F64 set1(double s) { return {_mm256_set1_pd(s), _mm256_set1_pd(s)}; }

  static Avx2F64 load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
  static Avx2F64 load_masked(const double* p, LaneBits lanes) {
    const Mask m = to_mask(lanes);
    return {_mm256_maskload_pd(p, (__m256i)m.lo), _mm256_maskload_pd(p + 4, (__m256i)m.hi)};
  }

  void store(double* p) const { _mm256_storeu_pd(p, lo), _mm256_storeu_pd(p + 4, hi); }
  void store_n(double* p, int n) const {
    alignas(32) double lane[kLanes];
    store(lane);
    std::memcpy(p, lane, size_t(n) * sizeof(double));
  }
  void stream(double* p) const { store(p); }
  static void fence() {}

  static Avx2F64 add(Avx2F64 a, Avx2F64 b) { return {a.lo + b.lo, a.hi + b.hi}; }
  static Avx2F64 fma(Avx2F64 a, Avx2F64 b, Avx2F64 c) {
    return {_mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi)};
  }
  static Mask greater(Avx2F64 candidate, Avx2F64 best) {
    return {candidate.lo > best.lo, candidate.hi > best.hi};
  }
  // Returns `best` where the two are equal.
  static Avx2F64 max(Avx2F64 candidate, Avx2F64 best) {
    return {_mm256_max_pd(candidate.lo, best.lo), _mm256_max_pd(candidate.hi, best.hi)};
  }
  static Mask beats(Avx2F64 candidate, Avx2F64 best) {
    return {(candidate.lo > best.lo) | (candidate.lo != candidate.lo),
            (candidate.hi > best.hi) | (candidate.hi != candidate.hi)};
  }
  static Avx2F64 if_then_else(Mask m, Avx2F64 yes, Avx2F64 no) {
    return {_mm256_blendv_pd(no.lo, yes.lo, (__m256d)m.lo),
            _mm256_blendv_pd(no.hi, yes.hi, (__m256d)m.hi)};
  }
  static Avx2F64 add_where(Mask m, Avx2F64 sum, Avx2F64 term) {
    return {sum.lo + _mm256_and_pd((__m256d)m.lo, term.lo),
            sum.hi + _mm256_and_pd((__m256d)m.hi, term.hi)};
  }
  static LaneBits to_bits(Mask m) {
    return LaneBits(_mm256_movemask_pd((__m256d)m.lo) | _mm256_movemask_pd((__m256d)m.hi) << 4);
  }
  static Mask to_mask(unsigned bits) {
    const HalfMask all = HalfMask{} + int64_t(bits), lo = {1, 2, 4, 8}, hi = {16, 32, 64, 128};
    return {(all & lo) == lo, (all & hi) == hi};
  }

  static Mask mask_at(const uint8_t* p) { return to_mask(*p); }
  template <int k>
  static Avx2F64 join(Avx2F64 before, Avx2F64 here) {
    const __m256d all[] = {before.lo, before.hi, here.lo, here.hi};
    constexpr int first = (kLanes - k) / 4, r = (kLanes - k) % 4;
    return {__builtin_shufflevector(all[first], all[first + 1], r, r + 1, r + 2, r + 3),
            __builtin_shufflevector(all[first + 1], all[first + 2], r, r + 1, r + 2, r + 3)};
  }

  static void deinterleave(Avx2F64 lo, Avx2F64 hi, Avx2F64& even, Avx2F64& odd) {
    even = {__builtin_shufflevector(lo.lo, lo.hi, 0, 2, 4, 6),
            __builtin_shufflevector(hi.lo, hi.hi, 0, 2, 4, 6)};
    odd = {__builtin_shufflevector(lo.lo, lo.hi, 1, 3, 5, 7),
           __builtin_shufflevector(hi.lo, hi.hi, 1, 3, 5, 7)};
  }
  static void interleave(Avx2F64 even, Avx2F64 odd, Avx2F64& lo, Avx2F64& hi) {
    lo = {__builtin_shufflevector(even.lo, odd.lo, 0, 4, 1, 5),
          __builtin_shufflevector(even.lo, odd.lo, 2, 6, 3, 7)};
    hi = {__builtin_shufflevector(even.hi, odd.hi, 0, 4, 1, 5),
          __builtin_shufflevector(even.hi, odd.hi, 2, 6, 3, 7)};
  }
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
