// The interface of a SIMD vector V, as two concepts. Vector lists what all stages and kernels need,
// Fusable what the fused kernels need beyond that.
//
// Names and order of arguments follow Google Highway where it has the operation. Each file
// targets/*.cpp defines FASTBLUR_CPU_TARGET, the namespace of everything compiled for that target.
// So code for one instruction set is never linked into another target.
#pragma once

#include "cpu/simd/prelude.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

// What every vector has. Scalar is the type of the arithmetic, T the type in memory: loads widen,
// stores round to nearest even. A Mask is what a comparison returns: one truth value per lane.
// LaneBits has the same as an integer of kLanes bits.
template <class V, class T>
concept Vector =
    (V::kLanes == 8 || V::kLanes == 16) && sizeof(typename V::LaneBits) * 8 == V::kLanes &&
    requires(V v, T* to, const T* from, typename V::Scalar scalar, typename V::Mask mask,
             typename V::LaneBits lanes, const uint8_t* bits, int n) {
      { V::set1(scalar) } -> std::same_as<V>;
      { V::load(from) } -> std::same_as<V>;
      { V::load_masked(from, lanes) } -> std::same_as<V>;  // other lanes: 0, not read
      v.store(to);
      v.store_n(to, n);  // the first n lanes
      v.stream(to);      // bypasses the caches; `to` is aligned to the vector
      V::fence();        // needed after the last stream
      { V::add(v, v) } -> std::same_as<V>;
      { V::fma(v, v, v) } -> std::same_as<V>;  // a * b + c
      // add_where(mask, sum, term): sum + term where mask, else sum
      { V::add_where(mask, v, v) } -> std::same_as<V>;
      // The tie rule of max_pool2d, with arguments (candidate, best). `greater` and `max` are for
      // finite values; `beats` is also true where the candidate is NaN.
      { V::greater(v, v) } -> std::same_as<typename V::Mask>;
      { V::beats(v, v) } -> std::same_as<typename V::Mask>;
      { V::max(v, v) } -> std::same_as<V>;
      { V::if_then_else(mask, v, v) } -> std::same_as<V>;
      { V::to_bits(mask) } -> std::same_as<typename V::LaneBits>;
      { V::to_mask(0u) } -> std::same_as<typename V::Mask>;
      { V::mask_at(bits) } -> std::same_as<typename V::Mask>;  // loads kLanes bits
      // join<k>(a, b): the last k lanes of a, then the first kLanes - k lanes of b
      { V::template join<1>(v, v) } -> std::same_as<V>;
      V::interleave(v, v, v, v);    // (even, odd) -> (lo, hi)
      V::deinterleave(v, v, v, v);  // (lo, hi) -> (even, odd)
    };

// What the fused kernels need beyond that. Calls on other vectors run stage by stage.
template <class V>
concept Fusable = requires(V v, typename V::Mask mask, uint8_t* bits, typename V::Scalar* to) {
  v.stream_n(to, 1);        // streams the first n lanes, in whole pieces of kPiece bytes
  V::put_mask(bits, mask);  // stores what mask_at loads
  { V::template mask_of_pairs<1>(bits) } -> std::same_as<typename V::Mask>;  // of bits 1, 3, 5 ...
  { V::neither(mask, mask) } -> std::same_as<typename V::Mask>;
  { V::select(mask, mask, mask) } -> std::same_as<typename V::Mask>;  // if_then_else for masks
  { V::held(v) } -> std::same_as<V>;  // returns v; the compiler must keep it in a register
};

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
