// The interface that the stages and kernels need of a vector of lanes V, as concepts.
//
// Names and order of arguments follow Google Highway where it has the operation. A target's file
// (targets/*.cpp) defines FASTBLUR_CPU_TARGET, the namespace of everything compiled for it, so that
// code for one instruction set is never linked into another's.
#pragma once

#include "cpu/simd/prelude.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// What every vector has. Scalar is the type of the arithmetic, T the type in memory: loads widen,
// stores round to nearest even. A Mask holds one truth per lane as comparisons return it, LaneBits
// the same as an integer of kLanes bits.
template <class V, class T>
concept Vector =
    (V::kLanes == 8 || V::kLanes == 16) && sizeof(typename V::LaneBits) * 8 == V::kLanes &&
    requires(V v, T* to, const T* from, typename V::Scalar scalar, typename V::Mask mask,
             typename V::LaneBits lanes, const uint8_t* bits, int n) {
      { V::set1(scalar) } -> std::same_as<V>;
      { V::load(from) } -> std::same_as<V>;
      { V::load_masked(from, lanes) } -> std::same_as<V>;  // other lanes: 0, unread
      v.store(to);
      v.store_n(to, n);  // the first n lanes
      v.stream(to);      // past the caches; `to` is aligned to the vector
      V::fence();        // after the last stream
      { V::add(v, v) } -> std::same_as<V>;
      { V::fma(v, v, v) } -> std::same_as<V>;  // a * b + c
      // add_where(mask, sum, term): sum + term where mask, else sum
      { V::add_where(mask, v, v) } -> std::same_as<V>;
      // The tie rule of max_pool2d for (candidate, best): `greater` and `max` for
      // finite values, `beats` also where the candidate is NaN.
      { V::greater(v, v) } -> std::same_as<typename V::Mask>;
      { V::beats(v, v) } -> std::same_as<typename V::Mask>;
      { V::max(v, v) } -> std::same_as<V>;
      { V::if_then_else(mask, v, v) } -> std::same_as<V>;
      { V::to_bits(mask) } -> std::same_as<typename V::LaneBits>;
      { V::to_mask(0u) } -> std::same_as<typename V::Mask>;
      { V::mask_at(bits) } -> std::same_as<typename V::Mask>;  // of kLanes bits
      // join<k>: the last k lanes of one, then the first lanes of the other
      { V::template join<1>(v, v) } -> std::same_as<V>;
      V::interleave(v, v, v, v);    // (even, odd) -> (lo, hi)
      V::deinterleave(v, v, v, v);  // (lo, hi) -> (even, odd)
    };

// What the fused kernels need beyond that. Other vectors go stage by stage.
template <class V>
concept Fusable = requires(V v, typename V::Mask mask, uint8_t* bits, typename V::Scalar* to) {
  v.stream_n(to, 1);        // the first lanes, in whole pieces of kPiece bytes
  V::put_mask(bits, mask);  // the inverse of mask_at
  { V::template mask_of_pairs<1>(bits) } -> std::same_as<typename V::Mask>;  // bits 1, 3, 5 ...
  { V::neither(mask, mask) } -> std::same_as<typename V::Mask>;
  { V::select(mask, mask, mask) } -> std::same_as<typename V::Mask>;  // if_then_else of masks
  { V::held(v) } -> std::same_as<V>;  // the same; the compiler must keep it in a register
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
