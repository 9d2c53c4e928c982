// Where the CPU keeps the codes: the one description of their layout.
//
// codes is [N, code_bytes_per_image], uint8. The codes of one image are one dense string of bits:
// unit after unit (see Params::units), of each unit its code_bits() planes, column planes first,
// then row planes, and of each the low bit of the winner's index first. Element i of row u of m is,
// in plane b of unit n of the image, bit
//
//     ((n * code_bits() + b) * H_m + u) * code_row_length + i
//
// and bit j of an image is bit j % 8 of its byte j / 8. A row of a plane is as long as a row of x,
// or of m if that is longer, so that x, m and codes of a unit share one flat index as a rule. The
// bits behind a shorter row of m mean nothing, but are a function of x alone.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "../max_blur_pool.h"

namespace fastblur::cpu {

static_assert(std::endian::native == std::endian::little, "bits are moved in 64-bit words");

// So many units fill whole bytes: threads that own them never write to one byte.
constexpr int64_t kUnitsPerBlock = 8;

inline int64_t code_row_length(const Params& p) {
  return (p.w.size > p.w.pooled() ? p.w.size : p.w.pooled()) * p.step();
}

inline int64_t code_rows_per_image(const Params& p) { return p.units_per_image() * p.h.pooled(); }

inline int64_t code_bits_per_unit(const Params& p) {
  return p.code_bits() * p.h.pooled() * code_row_length(p);
}

inline int64_t code_bytes_per_image(const Params& p) {
  return (p.units_per_image() * code_bits_per_unit(p) + 7) / 8;
}

// The bit where plane `plane` of a unit begins.
inline int64_t code_plane_start(const Params& p, int64_t unit, int plane) {
  const int64_t image = unit / p.units_per_image();
  return image * code_bytes_per_image(p) * 8 + unit % p.units_per_image() * code_bits_per_unit(p) +
         plane * p.h.pooled() * code_row_length(p);
}

// Sets the bits of a byte that are `mine`. Where another thread may own the others, at once.
inline void put_part_of_byte(uint8_t* byte, unsigned bits, unsigned mine, bool shared) {
  if (shared) {
    __atomic_fetch_and(byte, uint8_t(~mine), __ATOMIC_RELAXED);
    __atomic_fetch_or(byte, uint8_t(bits & mine), __ATOMIC_RELAXED);
  } else {
    *byte = uint8_t((*byte & ~mine) | (bits & mine));
  }
}

// Writes bits [0, n) of `src`, a string that starts at a byte, to bits [start, start + n) of `dst`,
// leaving the neighbours' bits of the first and last byte as they are.
inline void put_bits(uint8_t* dst, int64_t start, const uint8_t* src, int64_t n, bool shared) {
  if (n <= 0) return;
  dst += start / 8;
  const int shift = int(start % 8);
  unsigned carry = 0;  // the bits of src that come before *src, due at dst
  if (shift) {
    const int64_t first = n < 8 - shift ? n : 8 - shift;
    put_part_of_byte(dst++, unsigned(*src) << shift, ((1u << first) - 1) << shift, shared);
    n -= first;
    carry = unsigned(*src++) >> (8 - shift);
  }
  for (; n >= 64; n -= 64, dst += 8, src += 8) {
    uint64_t word;
    std::memcpy(&word, src, 8);
    const uint64_t out = word << shift | carry;
    std::memcpy(dst, &out, 8);
    if (shift) carry = unsigned(word >> (64 - shift));
  }
  for (; n > 0; n -= 8, ++dst) {
    // The last bits may all be in carry; then src may end here.
    unsigned byte = carry;
    if (n > shift) {
      byte |= unsigned(*src) << shift;
      carry = unsigned(*src++) >> (8 - shift);
    }
    if (n >= 8) *dst = uint8_t(byte);
    else put_part_of_byte(dst, byte, (1u << n) - 1, shared);
  }
}

// Zeroes the bits between the last row of an image and the end of its last byte: equal inputs have
// equal codes, to the bit.
inline void put_end_of_image(const Params& p, uint8_t* codes, int64_t image, bool shared) {
  const uint8_t zeros = 0;
  const int64_t bits = p.units_per_image() * code_bits_per_unit(p);
  const int64_t end = image * code_bytes_per_image(p) * 8 + bits;
  put_bits(codes, end, &zeros, (8 - end % 8) % 8, shared);
}

// Reads bits [start, start + n) of `src` to bits [0, n) of `dst`; the bits after them, up to the
// end of the last byte, become zero. Touches no byte of `src` beyond the range.
inline void get_bits(uint8_t* dst, const uint8_t* src, int64_t start, int64_t n) {
  if (n <= 0) return;
  src += start / 8;
  const int shift = int(start % 8);
  if (shift == 0) {
    std::memcpy(dst, src, size_t((n + 7) / 8));
  } else {
    int64_t i = 0;
    for (; (i + 8) * 8 + 8 <= n; i += 8) {  // one byte beyond the word is in range
      uint64_t word;
      std::memcpy(&word, src + i, 8);
      word = word >> shift | uint64_t(src[i + 8]) << (64 - shift);
      std::memcpy(dst + i, &word, 8);
    }
    for (; i * 8 < n; ++i) {
      unsigned byte = unsigned(src[i]) >> shift;
      if (n - i * 8 > 8 - shift) byte |= unsigned(src[i + 1]) << (8 - shift);
      dst[i] = uint8_t(byte);
    }
  }
  if (n % 8) dst[n / 8] &= uint8_t((1u << (n % 8)) - 1);
}

}  // namespace fastblur::cpu
