// What all stages use: scratch memory for rows of numbers (Scratch) and for strings of bits (Bits),
// access to the bits of one vector, prefetching, and calls with compile-time constants.
#pragma once

#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Prefetches to the second-level cache, because far more lines can be in flight to it than to the
// first. Always inlined, because GCC drops a call of a function without any effect that it knows.
__attribute__((always_inline)) inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

constexpr int64_t kPrefetchAhead = 1024;  // elements, for code that goes through memory in order

// Rows of scratch, all zero at first. Each row has `margin` elements and a little more on both
// sides. Rows are read and written in whole vectors, so the elements after the end of a row may
// change.
template <class E>
class Scratch {
 public:
  Scratch(int64_t rows, int64_t length, int64_t margin)
      : lead_(round(margin)), stride_(lead_ + round(length + margin)) {
    const size_t bytes = (size_t(rows * stride_ + kSlack) * sizeof(E) + 63) / 64 * 64;
    data_ = static_cast<E*>(take_scratch(bytes));
    std::memset((void*)data_, 0, bytes);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { give_back_scratch(data_); }
  int64_t stride() const { return stride_; }
  E* operator[](int64_t row) { return data_ + row * stride_ + lead_; }
  const E* operator[](int64_t row) const { return data_ + row * stride_ + lead_; }

 private:
  static constexpr int64_t kSlack = 64;  // elements: four of the widest vectors
  static int64_t round(int64_t n) { return (n + 15) / 16 * 16 + kSlack; }
  int64_t lead_, stride_;
  E* data_;
};

// Strings of bits as in codes/bits.h, with room on both sides.
class Bits : public Scratch<uint8_t> {
 public:
  Bits(int64_t strings, int64_t bits, int64_t margin_bits = 0)
      : Scratch<uint8_t>(strings, bits / 8 + 1, margin_bits / 8 + 1) {}
};

// The bits of one vector in a string. The first lane is element i of the string, and i is a
// multiple of 8.
template <class V>
inline typename V::LaneBits get_lanes(const uint8_t* string, int64_t i) {
  typename V::LaneBits bits;
  std::memcpy(&bits, string + (i >> 3), sizeof bits);
  return bits;
}

template <class V>
inline void put_lanes(uint8_t* string, int64_t i, typename V::LaneBits bits) {
  std::memcpy(string + (i >> 3), &bits, sizeof bits);
}

// Lanes [begin, end) as bits, clipped to the vector.
template <class V>
inline typename V::LaneBits lanes_between(int64_t begin, int64_t end) {
  begin = begin < 0 ? 0 : begin;
  end = end > V::kLanes ? V::kLanes : end;
  if (begin >= end) return 0;
  return typename V::LaneBits((1u << end) - (1u << begin));
}

inline void clear_bits(uint8_t* string, int64_t start, int64_t n) {
  for (; n > 0 && start % 8; ++start, --n) string[start / 8] &= uint8_t(~(1u << start % 8));
  if (n >= 8) std::memset(string + start / 8, 0, size_t(n / 8));
  start += n / 8 * 8;
  for (n %= 8; n > 0; ++start, --n) string[start / 8] &= uint8_t(~(1u << start % 8));
}

// Calls f with n as a compile-time constant if n is one of the known sizes, otherwise with 0.
template <int... kKnown, class F>
void with_constant(KnownSizes<kKnown...>, int n, F f) {
  const bool known = ((n == kKnown && (f(std::integral_constant<int, kKnown>{}), true)) || ...);
  if (!known) f(std::integral_constant<int, 0>{});
}

// Calls f with 0, 1 ... N - 1 as compile-time constants.
template <int N, class F>
inline void for_each_constant(F f) {
  [&]<int... kAll>(std::integer_sequence<int, kAll...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, kAll>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

template <class F>
void with_truth(bool truth, F f) {
  if (truth) f(std::true_type{});
  else f(std::false_type{});
}

// The same for ReLU. A window of one element (K = 1) has winners only with ReLU: without it, the
// call is linear.
template <int K, class F>
void with_relu(bool relu, F f) {
  if constexpr (K == 1) f(std::true_type{});
  else with_truth(relu, f);
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
