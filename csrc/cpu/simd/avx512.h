// A vector of sixteen float32 lanes, with AVX-512 (F, BW, VL, DQ). vector.h describes the
// interface.
#pragma once

#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

struct Avx512F32 {
  using Scalar = float;
  using LaneBits = uint16_t;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;

  __m512 v;

  static Avx512F32 set1(float s) { return {_mm512_set1_ps(s)}; }

  static Avx512F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Avx512F32 load(const Half* p) { return widen(p, _mm256_loadu_si256((const __m256i*)p)); }
  static Avx512F32 load(const BFloat16* p) {
    return widen(p, _mm256_loadu_si256((const __m256i*)p));
  }

  static Avx512F32 load_masked(const float* p, LaneBits lanes) {
    return {_mm512_maskz_loadu_ps(lanes, p)};
  }
  static Avx512F32 load_masked(const Half* p, LaneBits lanes) {
    return widen(p, _mm256_maskz_loadu_epi16(lanes, p));
  }
  static Avx512F32 load_masked(const BFloat16* p, LaneBits lanes) {
    return widen(p, _mm256_maskz_loadu_epi16(lanes, p));
  }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(Half* p) const { _mm256_storeu_si256((__m256i*)p, narrow(p)); }
  void store(BFloat16* p) const { _mm256_storeu_si256((__m256i*)p, narrow(p)); }

  void stream(float* p) const { _mm512_stream_ps(p, v); }
  template <class T>
  void stream(T* p) const {
    _mm256_stream_si256((__m256i*)p, narrow(p));
  }

  void stream_n(float* p, int n) const {
    _mm256_stream_ps(p, _mm512_castps512_ps256(v));
    if (n > 8) _mm256_stream_ps(p + 8, _mm512_extractf32x8_ps(v, 1));
  }
  template <class T>
  void stream_n(T* p, int) const {
    stream(p);
  }

  static void store_pairs(Avx512F32 even, Avx512F32 odd, float* p) {
    interleave(even, odd, even, odd);
    even.store(p), odd.store(p + kLanes);
  }
  static void stream_pairs(Avx512F32 even, Avx512F32 odd, float* p) {
    interleave(even, odd, even, odd);
    if (is_line(p)) even.stream(p), odd.stream(p + kLanes);
    else even.stream_n(p, kLanes), odd.stream_n(p + kLanes, kLanes);
  }
  template <class T>
  static void store_pairs(Avx512F32 even, Avx512F32 odd, T* p) {
    _mm512_storeu_si512(p, narrow_pairs(even, odd, p));
  }
  template <class T>
  static void stream_pairs(Avx512F32 even, Avx512F32 odd, T* p) {
    const __m512i pairs = narrow_pairs(even, odd, p);
    if (is_line(p)) return _mm512_stream_si512((__m512i*)p, pairs);
    _mm256_stream_si256((__m256i*)p, _mm512_castsi512_si256(pairs));
    _mm256_stream_si256((__m256i*)p + 1, _mm512_extracti64x4_epi64(pairs, 1));
  }

  static void fence() { _mm_sfence(); }

  void store_n(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
  void store_n(Half* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow(p)); }
  void store_n(BFloat16* p, int n) const { _mm256_mask_storeu_epi16(p, first(n), narrow(p)); }

  static Avx512F32 add(Avx512F32 a, Avx512F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Avx512F32 fma(Avx512F32 a, Avx512F32 b, Avx512F32 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  static Mask greater(Avx512F32 candidate, Avx512F32 best) {
    return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GT_OQ);
  }
  // Returns `best` where the two are equal.
  static Avx512F32 max(Avx512F32 candidate, Avx512F32 best) {
    return {_mm512_max_ps(candidate.v, best.v)};
  }
  static Mask beats(Avx512F32 candidate, Avx512F32 best) {
    return _mm512_cmp_ps_mask(candidate.v, best.v, _CMP_GT_OQ) |
           _mm512_cmp_ps_mask(candidate.v, candidate.v, _CMP_UNORD_Q);
  }
  static Avx512F32 if_then_else(Mask m, Avx512F32 yes, Avx512F32 no) {
    return {_mm512_mask_blend_ps(m, no.v, yes.v)};
  }
  static Avx512F32 add_where(Mask m, Avx512F32 sum, Avx512F32 term) {
    return {_mm512_mask_add_ps(sum.v, m, sum.v, term.v)};
  }
  static Mask neither(Mask a, Mask b) { return _knot_mask16(_kor_mask16(a, b)); }
  static Mask select(Mask m, Mask yes, Mask no) {
    return _kor_mask16(_kand_mask16(m, yes), _kandn_mask16(m, no));
  }
  static LaneBits to_bits(Mask m) { return m; }
  static Mask to_mask(unsigned bits) { return Mask(bits); }
  // Loads from memory to the mask register. GCC would go through a general register, and those are
  // few.
  static Mask mask_at(const uint8_t* p) {
    Mask mask;
    asm("kmovw %1, %0" : "=k"(mask) : "m"(*(const LaneBits*)p));
    return mask;
  }
  template <int first>
  static Mask mask_of_pairs(const uint8_t* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    const __m512i lane = _mm512_sllv_epi32(
        _mm512_set1_epi32(1 << first),
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30));
    return _mm512_test_epi32_mask(_mm512_set1_epi32(bits), lane);
  }
  static void put_mask(uint8_t* p, Mask m) { asm("kmovw %1, %0" : "=m"(*(LaneBits*)p) : "k"(m)); }
  static Avx512F32 held(Avx512F32 v) {
    asm("" : "+v"(v.v));
    return v;
  }

  template <int k>
  static Avx512F32 join(Avx512F32 before, Avx512F32 here) {
    return {_mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(here.v),
                                                    _mm512_castps_si512(before.v), kLanes - k))};
  }

  static void deinterleave(Avx512F32 lo, Avx512F32 hi, Avx512F32& even, Avx512F32& odd) {
    const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i o = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    even = {_mm512_permutex2var_ps(lo.v, e, hi.v)};
    odd = {_mm512_permutex2var_ps(lo.v, o, hi.v)};
  }
  static void interleave(Avx512F32 even, Avx512F32 odd, Avx512F32& lo, Avx512F32& hi) {
    const __m512i l = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i h =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    lo = {_mm512_permutex2var_ps(even.v, l, odd.v)};
    hi = {_mm512_permutex2var_ps(even.v, h, odd.v)};
  }

 private:
  static bool is_line(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }
  static Mask first(int n) { return Mask((1u << n) - 1); }
  static Avx512F32 widen(const Half*, __m256i raw) { return {_mm512_cvtph_ps(raw)}; }
  static Avx512F32 widen(const BFloat16*, __m256i raw) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16))};
  }
  __m256i narrow(const Half*) const {
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  __m256i narrow(const BFloat16*) const {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(), 16));
  }
  // Rounds to bfloat16, in the upper half of each lane. It does not use the conversion instruction,
  // which flushes denormals.
  __m512i rounded() const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
    const Mask nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_blend_epi32(nan, even, _mm512_set1_epi32(0x7fc00000));
  }
  static __m512i narrow_pairs(Avx512F32 even, Avx512F32 odd, const BFloat16*) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even.rounded(), 16),
                                   odd.rounded());
  }
  static __m512i narrow_pairs(Avx512F32 even, Avx512F32 odd, const Half* p) {
    const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd.narrow(p)), 16);
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even.narrow(p)), high);
  }
};
static_assert(Fusable<Avx512F32>);

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
