// Eight lanes in plain GCC/Clang vector extensions: the vector of the portable level, and float64
// in AVX-512. kInRegister: whether the level's target has registers of this size.
//
// The interface that the stages need of a vector V, here and in simd_avx2.h and simd_avx512.h:
//
//   V::Scalar, V::kLanes      element type of the arithmetic, and how many
//   V::kFuses                 whether the stages are done in one go
//   V::Mask, V::Word          one truth per lane: as the comparison gives it, and as kLanes bits
//   splat, load, load_where   from memory of any storage type T, widening
//   store, store_first        to memory of T, rounding to nearest even
//   stream, fence             store past the caches, aligned; and wait for all that did
//   stream_first              the first lanes, as whole pieces of kPiece bytes, and so aligned
//   store_pairs, stream_pairs interleave and store at once; where V has something better for it
//   greater, beats, max       the tie rule for numbers; for anything; the value that goes with it
//   add, fma, blend, add_where, interleave, deinterleave
//   join<k>                   the last k lanes of one vector before all but those of the next
//   select                    of two Masks, lane by lane
//   to_bits, to_mask          between Word and Mask
//   mask_at, put_mask         the Mask of the bits at an address, and the other way round
//   mask_of_pairs<k>          the Mask of every second bit at an address, from bit k on
//   held                      the same vector, which a compiler must not load again for each use
//
// A level's file (level_*.cpp) defines FASTBLUR_CPU_LEVEL, its namespace, so that code compiled for
// one instruction set can never be linked into another's.
#pragma once

#include "level.h"

namespace fastblur::cpu::FASTBLUR_CPU_LEVEL {

template <class S, class I, bool kInRegister = false>
struct Generic {
  using Scalar = S;
  using Word = uint8_t;
  static constexpr int kLanes = 8;
  static constexpr bool kFuses = kInRegister;  // else it takes two or more of a few
  typedef S Reg __attribute__((vector_size(kLanes * sizeof(S))));
  typedef I Mask __attribute__((vector_size(kLanes * sizeof(I))));

  Reg v;

  static Generic splat(S s) { return {Reg{} + s}; }

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

  // Lanes outside `lanes` are zero, and their memory is not touched.
  template <class T>
  static Generic load_where(const T* p, Word lanes) {
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
  void store_first(T* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = T(v[i]);
  }

  template <class T>
  void stream(T* p) const {
    store(p);
  }

  template <class T>
  void stream_first(T* p, int n) const {
    store_first(p, n);
  }

  static void fence() {}

  static Generic add(Generic a, Generic b) { return {a.v + b.v}; }
  static Generic fma(Generic a, Generic b, Generic c) { return {a.v * b.v + c.v}; }

  // The tie rule of max_pool2d: a later candidate takes over if it is larger, or NaN.
  static Mask greater(Generic candidate, Generic best) { return candidate.v > best.v; }
  static Generic max(Generic candidate, Generic best) {
    return {candidate.v > best.v ? candidate.v : best.v};
  }
  static Mask beats(Generic candidate, Generic best) {
    return (candidate.v > best.v) | (candidate.v != candidate.v);
  }

  static Generic blend(Mask m, Generic yes, Generic no) { return {m ? yes.v : no.v}; }
  static Generic add_where(Mask m, Generic sum, Generic term) {
    return {sum.v + (m ? term.v : Reg{})};
  }

  static Mask neither(Mask a, Mask b) { return ~(a | b); }
  static Mask select(Mask m, Mask yes, Mask no) { return (m & yes) | (~m & no); }
  static Word to_bits(Mask m) {
    unsigned bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= unsigned(m[i] & 1) << i;
    return Word(bits);
  }
  static Mask to_mask(unsigned bits) {
    const Mask lane = {1, 2, 4, 8, 16, 32, 64, 128};
    return ((Mask{} + I(bits & 0xff)) & lane) != 0;
  }

  static Mask mask_at(const uint8_t* p) { return to_mask(*p); }
  template <int first>
  static Mask mask_of_pairs(const uint8_t* p) {
    const Mask lane = {1 << first,   4 << first,    16 << first,   64 << first,
                       256 << first, 1024 << first, 4096 << first, 16384 << first};
    return ((Mask{} + I(p[0] | p[1] << 8)) & lane) != 0;
  }
  static void put_mask(uint8_t* p, Mask m) {
    const Word bits = to_bits(m);
    std::memcpy(p, &bits, sizeof bits);
  }
  static Generic held(Generic v) { return v; }

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

}  // namespace fastblur::cpu::FASTBLUR_CPU_LEVEL
