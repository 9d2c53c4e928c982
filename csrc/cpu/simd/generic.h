// A vector of eight lanes in the vector extensions of GCC and Clang. The generic target uses it for
// all types, the AVX-512 target for float64. vector.h describes the interface.
#pragma once

#include "cpu/simd/prelude.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

template <class S, class I>
struct Generic {
  using Scalar = S;
  using LaneBits = uint8_t;
  static constexpr int kLanes = 8;
  typedef S Reg __attribute__((vector_size(kLanes * sizeof(S))));
  typedef I Mask __attribute__((vector_size(kLanes * sizeof(I))));

  Reg v;

  static Generic set1(S s) { return {Reg{} + s}; }

  template <class T>
  static Generic load(const T* p) {
    Generic r;
    if constexpr (std::is_same_v<T, S>) {
      std::memcpy(&r.v, p, sizeof r.v);
    } else {
      for (int i = 0; i < kLanes; ++i) r.v[i] = S(p[i]);
    }
    return r;
  }

  // Lanes outside `lanes` are zero, and their memory is not read.
  template <class T>
  static Generic load_masked(const T* p, LaneBits lanes) {
    Generic r{Reg{}};
    for (int i = 0; i < kLanes; ++i)
      if (lanes >> i & 1) r.v[i] = S(p[i]);
    return r;
  }

  template <class T>
  void store(T* p) const {
    if constexpr (std::is_same_v<T, S>) {
      std::memcpy(p, &v, sizeof v);
    } else {
      for (int i = 0; i < kLanes; ++i) p[i] = T(v[i]);
    }
  }

  template <class T>
  void store_n(T* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = T(v[i]);
  }

  template <class T>
  void stream(T* p) const {
    store(p);
  }

  static void fence() {}

  static Generic add(Generic a, Generic b) { return {a.v + b.v}; }
  static Generic fma(Generic a, Generic b, Generic c) { return {a.v * b.v + c.v}; }

  // The tie rule of max_pool2d: a candidate takes over if it is larger than `best`, or NaN.
  static Mask greater(Generic candidate, Generic best) { return candidate.v > best.v; }
  static Generic max(Generic candidate, Generic best) {
    return {candidate.v > best.v ? candidate.v : best.v};
  }
  static Mask beats(Generic candidate, Generic best) {
    return (candidate.v > best.v) | (candidate.v != candidate.v);
  }

  static Generic if_then_else(Mask m, Generic yes, Generic no) { return {m ? yes.v : no.v}; }
  static Generic add_where(Mask m, Generic sum, Generic term) {
    return {sum.v + (m ? term.v : Reg{})};
  }

  static LaneBits to_bits(Mask m) {
    unsigned bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= unsigned(m[i] & 1) << i;
    return LaneBits(bits);
  }
  static Mask to_mask(unsigned bits) {
    const Mask lane = {1, 2, 4, 8, 16, 32, 64, 128};
    return ((Mask{} + I(bits & 0xff)) & lane) != 0;
  }

  static Mask mask_at(const uint8_t* p) { return to_mask(*p); }
  template <int k>
  static Generic join(Generic before, Generic here) {
    return [&]<int... i>(std::integer_sequence<int, i...>) {
      return Generic{__builtin_shufflevector(before.v, here.v, kLanes - k + i...)};
    }(std::make_integer_sequence<int, kLanes>{});
  }

  // a b c d ... , e f g h ...  ->  even: a c ... e g ... , odd: b d ... f h ...
  static void deinterleave(Generic lo, Generic hi, Generic& even, Generic& odd) {
    even = {__builtin_shufflevector(lo.v, hi.v, 0, 2, 4, 6, 8, 10, 12, 14)};
    odd = {__builtin_shufflevector(lo.v, hi.v, 1, 3, 5, 7, 9, 11, 13, 15)};
  }
  static void interleave(Generic even, Generic odd, Generic& lo, Generic& hi) {
    lo = {__builtin_shufflevector(even.v, odd.v, 0, 8, 1, 9, 2, 10, 3, 11)};
    hi = {__builtin_shufflevector(even.v, odd.v, 4, 12, 5, 13, 6, 14, 7, 15)};
  }
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
