// The two 16-bit storage types, Half and BFloat16, and their conversions from and to float.
// Arithmetic is in float. Conversions from float round to nearest even.
#pragma once

#include <bit>
#include <cstdint>

namespace fastblur::cpu {

struct Half {
  uint16_t bits;

  Half() = default;

#if defined(__aarch64__)
  explicit Half(float value) : bits(std::bit_cast<uint16_t>(__fp16(value))) {}
  explicit operator float() const { return std::bit_cast<__fp16>(bits); }
#else
  // Each case is computed and then selected, without branches, so that a compiler can vectorise it.
  explicit Half(float value) {
    constexpr uint32_t kInfinity = 0x7f800000, kRebias = (127 - 15) << 23;
    constexpr uint32_t kOverflow = 0x477ff000;        // 65520, halfway from 65504 to 2^16
    constexpr uint32_t kSmallestNormal = 0x38800000;  // 2^-14
    const uint32_t word = std::bit_cast<uint32_t>(value), magnitude = word & 0x7fffffff;
    const uint32_t normal = (magnitude - kRebias + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // Adding 0.5 rounds to multiples of 2^-24: the last bit of a float between 0.5 and 1, and of a
    // subnormal half.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    const uint32_t subnormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f);
    uint32_t half = magnitude < kSmallestNormal ? subnormal : normal;
    half = magnitude >= kOverflow ? 0x7c00 : half;
    half = magnitude > kInfinity ? 0x7e00 : half;
    bits = uint16_t((word >> 16 & 0x8000) | half);
  }

  explicit operator float() const {
    const uint32_t magnitude = bits & 0x7fff, shifted = magnitude << 13;
    const float subnormal = std::bit_cast<float>(magnitude | std::bit_cast<uint32_t>(0.5f)) - 0.5f;
    uint32_t word = shifted + ((127 - 15) << 23);
    word = magnitude < 0x0400 ? std::bit_cast<uint32_t>(subnormal) : word;
    word = magnitude >= 0x7c00 ? shifted | 0x7f800000 : word;
    word = magnitude > 0x7c00 ? word | 0x00400000 : word;  // makes a NaN quiet
    return std::bit_cast<float>(word | uint32_t(bits & 0x8000) << 16);
  }
#endif
};

struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
    bits = uint16_t(value != value ? 0x7fc0 : rounded);
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

static_assert(sizeof(Half) == 2 && sizeof(BFloat16) == 2);

}  // namespace fastblur::cpu
