// A vector of eight float32 lanes, with AVX2, FMA and F16C. vector.h describes the interface.
#pragma once

#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

struct Avx2F32 {
  using Scalar = float;
  using LaneBits = uint8_t;
  using Mask = __m256;
  static constexpr int kLanes = 8;

  __m256 v;

  static Avx2F32 set1(float s) { return {_mm256_set1_ps(s)}; }

  static Avx2F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Avx2F32 load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))};
  }
  static Avx2F32 load(const BFloat16* p) {
    const __m128i raw = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16))};
  }

  static Avx2F32 load_masked(const float* p, LaneBits lanes) {
    return {_mm256_maskload_ps(p, _mm256_castps_si256(to_mask(lanes)))};
  }
  template <class T>
  static Avx2F32 load_masked(const T* p, LaneBits lanes) {
    alignas(16) T lane[kLanes] = {};
    for (int i = 0; i < kLanes; ++i)
      if (lanes >> i & 1) lane[i] = p[i];
    return load(lane);
  }

  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(Half* p) const {
    _mm_storeu_si128((__m128i*)p,
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  void store(BFloat16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i even = _mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(even, _mm256_set1_epi32(0x7fc00000), nan);
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    // packus works within each 128-bit half; the permute joins the two results.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
  }

  void stream(float* p) const { _mm256_stream_ps(p, v); }
  template <class T>
  void stream(T* p) const {
    alignas(16) T lane[kLanes];
    store(lane);
    _mm_stream_si128((__m128i*)p, _mm_load_si128((const __m128i*)lane));
  }

  template <class T>
  void stream_n(T* p, int) const {
    static_assert(kLanes * sizeof(float) <= kPiece);  // so one piece holds all lanes
    stream(p);
  }

  static void fence() { _mm_sfence(); }

  template <class T>
  void store_n(T* p, int n) const {
    alignas(32) T lane[kLanes];
    store(lane);
    std::memcpy((void*)p, lane, size_t(n) * sizeof(T));
  }

  static Avx2F32 add(Avx2F32 a, Avx2F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Avx2F32 fma(Avx2F32 a, Avx2F32 b, Avx2F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Mask greater(Avx2F32 candidate, Avx2F32 best) {
    return _mm256_cmp_ps(candidate.v, best.v, _CMP_GT_OQ);
  }
  // Returns `best` where the two are equal.
  static Avx2F32 max(Avx2F32 candidate, Avx2F32 best) {
    return {_mm256_max_ps(candidate.v, best.v)};
  }
  static Mask beats(Avx2F32 candidate, Avx2F32 best) {
    return _mm256_or_ps(_mm256_cmp_ps(candidate.v, best.v, _CMP_GT_OQ),
                        _mm256_cmp_ps(candidate.v, candidate.v, _CMP_UNORD_Q));
  }
  static Avx2F32 if_then_else(Mask m, Avx2F32 yes, Avx2F32 no) {
    return {_mm256_blendv_ps(no.v, yes.v, m)};
  }
  static Avx2F32 add_where(Mask m, Avx2F32 sum, Avx2F32 term) {
    return {_mm256_add_ps(sum.v, _mm256_and_ps(m, term.v))};
  }
  static Mask neither(Mask a, Mask b) {
    return _mm256_xor_ps(_mm256_or_ps(a, b), _mm256_castsi256_ps(_mm256_set1_epi32(-1)));
  }
  static Mask select(Mask m, Mask yes, Mask no) { return _mm256_blendv_ps(no, yes, m); }
  static LaneBits to_bits(Mask m) { return LaneBits(_mm256_movemask_ps(m)); }
  static Mask to_mask(unsigned bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i mine = _mm256_and_si256(_mm256_set1_epi32(int(bits)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, lane));
  }

  static Mask mask_at(const uint8_t* p) { return to_mask(*p); }
  template <int first>
  static Mask mask_of_pairs(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    const __m256i lane =
        _mm256_setr_epi32(1 << first, 4 << first, 16 << first, 64 << first, 256 << first,
                          1024 << first, 4096 << first, 16384 << first);
    const __m256i mine = _mm256_and_si256(_mm256_set1_epi32(bits), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, lane));
  }
  static void put_mask(uint8_t* p, Mask m) { *p = to_bits(m); }
  static Avx2F32 held(Avx2F32 v) {
    asm("" : "+x"(v.v));
    return v;
  }

  template <int k>
  static Avx2F32 join(Avx2F32 before, Avx2F32 here) {
    // alignr works within each 128-bit half. `mid` is the high half of `before` and the low half of
    // `here`.
    const __m256i all = _mm256_castps_si256(here.v), none = _mm256_castps_si256(before.v);
    const __m256i mid = _mm256_castps_si256(_mm256_permute2f128_ps(before.v, here.v, 0x21));
    if constexpr (k <= 4) return {_mm256_castsi256_ps(_mm256_alignr_epi8(all, mid, 16 - 4 * k))};
    else return {_mm256_castsi256_ps(_mm256_alignr_epi8(mid, none, 32 - 4 * k))};
  }

  static void deinterleave(Avx2F32 lo, Avx2F32 hi, Avx2F32& even, Avx2F32& odd) {
    const __m256 a = _mm256_permute2f128_ps(lo.v, hi.v, 0x20);  // the low halves of lo and hi
    const __m256 b = _mm256_permute2f128_ps(lo.v, hi.v, 0x31);
    even = {_mm256_shuffle_ps(a, b, 0x88)};
    odd = {_mm256_shuffle_ps(a, b, 0xdd)};
  }
  static void interleave(Avx2F32 even, Avx2F32 odd, Avx2F32& lo, Avx2F32& hi) {
    const __m256 a = _mm256_unpacklo_ps(even.v, odd.v);
    const __m256 b = _mm256_unpackhi_ps(even.v, odd.v);
    lo = {_mm256_permute2f128_ps(a, b, 0x20)};
    hi = {_mm256_permute2f128_ps(a, b, 0x31)};
  }
};
static_assert(Fusable<Avx2F32>);

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
