// Numbers of the four element types, written for the fuzzer alone: no code of csrc/ has a part in
// what a result is compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "params.h"

namespace fuzz {

using fastblur::Type;

struct Format {
  int mantissa;  // bits behind the point
  int lowest;    // exponent of the smallest normal number
  int highest;   // exponent of the largest number
};

inline Format format_of(Type type) {
  switch (type) {
    case Type::f32: return {23, -126, 127};
    case Type::f64: return {52, -1022, 1023};
    case Type::f16: return {10, -14, 15};
    default: return {7, -126, 127};
  }
}

inline double largest_of(Type type) {
  constexpr double kLargest[] = {0x1.fffffep127, 0x1.fffffffffffffp1023, 65504, 0x1.fep127};
  return kLargest[int(type)];
}

inline double smallest_of(Type type) {
  constexpr double kSmallest[] = {0x1p-149, 0x1p-1074, 0x1p-24, 0x1p-133};
  return kSmallest[int(type)];
}

// The number of a type below float64 that is nearest, ties to even: infinity beyond the largest.
// Adding and subtracting a power of two rounds to its last bit.
inline double round_to(Type type, double value) {
  if (!std::isfinite(value) || value == 0) return value;
  const Format f = format_of(type);
  const int exponent = std::max(std::ilogb(value), f.lowest);
  const double shift = 1.5 * std::ldexp(1.0, 52 + exponent - f.mantissa);
  volatile double rounded = value + shift;
  rounded = rounded - shift;
  const double result = std::copysign(rounded, value);
  return std::fabs(result) > largest_of(type) ? std::copysign(INFINITY, value) : result;
}

inline size_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

inline double from_bits(Type type, uint64_t bits) {
  const Format f = format_of(type);
  const int width = int(size_of(type)) * 8, exponent_bits = width - 1 - f.mantissa;
  const uint64_t fraction = bits & ((uint64_t(1) << f.mantissa) - 1);
  const int exponent = int(bits >> f.mantissa & ((1u << exponent_bits) - 1));
  double value;
  if (exponent == (1 << exponent_bits) - 1) value = fraction ? NAN : INFINITY;
  else if (exponent == 0) value = std::ldexp(double(fraction), f.lowest - f.mantissa);
  else
    value = std::ldexp(double(fraction | uint64_t(1) << f.mantissa),
                       exponent - 1 + f.lowest - f.mantissa);
  return bits >> (width - 1) & 1 ? -value : value;
}

inline uint64_t to_bits(Type type, double value) {
  const Format f = format_of(type);
  const int width = int(size_of(type)) * 8, exponent_bits = width - 1 - f.mantissa;
  const uint64_t sign = uint64_t(std::signbit(value)) << (width - 1);
  const uint64_t infinity = ((uint64_t(1) << exponent_bits) - 1) << f.mantissa;
  if (std::isnan(value)) return infinity | uint64_t(1) << (f.mantissa - 1);
  const double rounded = std::fabs(round_to(type, value));
  if (std::isinf(rounded)) return sign | infinity;
  if (rounded == 0) return sign;
  int exponent;
  std::frexp(rounded, &exponent);
  exponent = exponent - 1 < f.lowest ? f.lowest : exponent - 1;
  // The hidden bit, where there is one, adds one to the exponent's field.
  const auto integer = uint64_t(std::ldexp(rounded, f.mantissa - exponent));
  return sign | ((uint64_t(exponent - f.lowest) << f.mantissa) + integer);
}

inline uint64_t bits_at(Type type, const void* data, int64_t i) {
  uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const char*>(data) + size_t(i) * size_of(type), size_of(type));
  return bits;
}

inline double get(Type type, const void* data, int64_t i) {
  const uint64_t bits = bits_at(type, data, i);
  if (type == Type::f32) {
    float value;
    const auto word = uint32_t(bits);
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
  if (type == Type::f64) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static const auto table = [] {
    std::vector<double> all[2];
    for (unsigned i = 0; i < 65536; ++i)
      all[0].push_back(from_bits(Type::f16, i)), all[1].push_back(from_bits(Type::bf16, i));
    return std::pair{all[0], all[1]};
  }();
  return (type == Type::f16 ? table.first : table.second)[bits];
}

inline void put(Type type, void* data, int64_t i, double value) {
  char* const to = static_cast<char*>(data) + size_t(i) * size_of(type);
  if (type == Type::f32) {
    const float single = float(value);
    std::memcpy(to, &single, sizeof single);
  } else if (type == Type::f64) {
    std::memcpy(to, &value, sizeof value);
  } else {
    const uint64_t bits = to_bits(type, value);
    std::memcpy(to, &bits, size_of(type));
  }
}

// Neighbouring numbers of a type have neighbouring ranks; both zeros have rank 0.
inline int64_t rank_of(Type type, uint64_t bits) {
  const int sign = int(size_of(type)) * 8 - 1;
  const auto magnitude = int64_t(bits & ((uint64_t(1) << sign) - 1));
  return bits >> sign & 1 ? -magnitude : magnitude;
}

}  // namespace fuzz
