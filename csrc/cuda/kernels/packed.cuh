// Operations on 32-bit words for the channels_last kernels. A word holds one float32, or two
// neighbouring channels of a 16-bit type. Every stage up to the blur processes all channels of a
// word at once.
#pragma once

#include "cuda/kernels/values.cuh"

namespace fastblur::cuda {

template <class T>
struct Packed;

template <>
struct Packed<float> {
  static constexpr int kPerWord = 1;
  static constexpr uint32_t kEach = 1;  // bit * kEach is that bit for each number of a word

  static FASTBLUR_DEVICE float unpack(uint32_t word, int) {
    float v;
    memcpy(&v, &word, 4);
    return v;
  }
  static FASTBLUR_DEVICE uint32_t pack(const float* v) {
    uint32_t word;
    memcpy(&word, v, 4);
    return word;
  }
  static FASTBLUR_DEVICE uint32_t larger(uint32_t a, uint32_t b) {
    const float v = larger_of(unpack(a, 0), unpack(b, 0));
    return pack(&v);
  }
  // Like take_larger, for each number of the words. `bit` is one of bits 0 to 15.
  static FASTBLUR_DEVICE uint32_t take(uint32_t best, uint32_t later, uint32_t& code,
                                       uint32_t bit) {
    const float v = take_larger(unpack(best, 0), unpack(later, 0), code, bit);
    return pack(&v);
  }
  // A mask: all bits are set for a number that is zero or less, and none for other numbers and NaN.
  static FASTBLUR_DEVICE uint32_t nobody(uint32_t m) { return unpack(m, 0) <= 0 ? ~0u : 0; }
  static FASTBLUR_DEVICE uint32_t sum(uint32_t a, uint32_t b) {
    const float v = unpack(a, 0) + unpack(b, 0);
    return pack(&v);
  }
  static FASTBLUR_DEVICE bool has_nan(uint32_t a) { return unpack(a, 0) != unpack(a, 0); }
};

// The two numbers of a 16-bit type in a word. Pair is __half2 or __nv_bfloat162.
template <class T, class Pair>
struct PackedPair {
  static constexpr int kPerWord = 2;
  static constexpr uint32_t kEach = 0x00010001u;

  static FASTBLUR_DEVICE Pair pair(uint32_t word) {
    Pair v;
    memcpy(&v, &word, 4);
    return v;
  }
  static FASTBLUR_DEVICE uint32_t word(Pair v) {
    uint32_t w;
    memcpy(&w, &v, 4);
    return w;
  }
  static FASTBLUR_DEVICE float unpack(uint32_t w, int i) {
    return to_float(i == 0 ? pair(w).x : pair(w).y);
  }
  static FASTBLUR_DEVICE uint32_t larger(uint32_t a, uint32_t b) {
    return word(__hmax2_nan(pair(a), pair(b)));
  }
  static FASTBLUR_DEVICE uint32_t take(uint32_t best, uint32_t later, uint32_t& code,
                                       uint32_t bit) {
    const uint32_t v = larger(best, later);
    code |= __hneu2_mask(pair(v), pair(best)) & bit * kEach;
    return v;
  }
  static FASTBLUR_DEVICE uint32_t nobody(uint32_t m) { return __hle2_mask(pair(m), pair(0)); }
  static FASTBLUR_DEVICE uint32_t sum(uint32_t a, uint32_t b) {
    return word(__hadd2(pair(a), pair(b)));
  }
  static FASTBLUR_DEVICE bool has_nan(uint32_t a) { return __hneu2_mask(pair(a), pair(a)) != 0; }
};

template <>
struct Packed<__half> : PackedPair<__half, __half2> {
  static FASTBLUR_DEVICE uint32_t pack(const float* v) {
    return word(__floats2half2_rn(v[0], v[1]));
  }
};

template <>
struct Packed<__nv_bfloat16> : PackedPair<__nv_bfloat16, __nv_bfloat162> {
  static FASTBLUR_DEVICE uint32_t pack(const float* v) {
    return word(__floats2bfloat162_rn(v[0], v[1]));
  }
  // A bfloat16 is the upper half of a float.
  static FASTBLUR_DEVICE float unpack(uint32_t w, int i) {
    const uint32_t bits = i == 0 ? w << 16 : w & 0xffff0000u;
    float v;
    memcpy(&v, &bits, 4);
    return v;
  }
};

template <class T>
FASTBLUR_DEVICE uint32_t filled(float v) {
  const float both[2] = {v, v};
  return Packed<T>::pack(both);
}

}  // namespace fastblur::cuda
