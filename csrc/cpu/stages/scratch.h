// Scratch memory of the kernels: rows of numbers, and strings of bits.
#pragma once

#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Asks for memory that is used soon. To the second cache: far more can be on its way there at a
// time than to the first. Always inline: gcc leaves out calls of functions without effects it knows
// of.
__attribute__((always_inline)) inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

constexpr int64_t kPrefetchAhead = 1024;  // elements, where memory is gone through in its order

// Rows of scratch with `margin` zeroed elements, and a little more, on both sides of each. They are
// read and written in whole vectors, so what lies behind a row's end may change.
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
  static constexpr int64_t kSlack = 64;  // four of the widest vectors
  static int64_t round(int64_t n) { return (n + 15) / 16 * 16 + kSlack; }
  int64_t lead_, stride_;
  E* data_;
};

// Strings of bits, bit j of one being bit j % 8 of its byte j / 8, with room on both sides.
class Bits : public Scratch<uint8_t> {
 public:
  Bits(int64_t strings, int64_t bits, int64_t margin_bits = 0)
      : Scratch<uint8_t>(strings, bits / 8 + 1, margin_bits / 8 + 1) {}
};

// The bits of one vector, at lane i of a string that belongs to it.
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

// Calls f with n as a compile-time constant if it is one of the sizes, else with 0.
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

// The same for ReLU, without which a window of one element is not selected at all.
template <int K, class F>
void with_relu(bool relu, F f) {
  if constexpr (K == 1) f(std::true_type{});
  else with_truth(relu, f);
}

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
