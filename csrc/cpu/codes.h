// Where the CPU keeps the codes: the one description of their layout.
//
// codes is [N, code_bytes_per_image], uint8. The codes of one image are one dense string of bits.
// Its rows, row u of the only unit if channels_last, else row u of channel c as number c * H_m + u,
// own code_bits() planes of row_length = W_m * step bits each: column planes first, then row
// planes, and of each the low bit of the winner's index first. Plane b of row r starts at bit
//
//     (r * code_bits() + b) * row_length
//
// of its image, and bit i of an image is bit i % 8 of its byte i / 8. Eight rows of an image fill
// whole bytes, so threads that own blocks of eight rows never write to one byte.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "../max_blur_pool.h"

namespace fastblur::cpu {

static_assert(std::endian::native == std::endian::little, "bits are moved in 64-bit words");

constexpr int64_t kRowsPerBlock = 8;

inline int64_t code_row_length(const Params& p) { return p.w.pooled() * p.step(); }

inline int64_t code_rows_per_image(const Params& p) { return p.units_per_image() * p.h.pooled(); }

inline int64_t code_bytes_per_image(const Params& p) {
  return (code_rows_per_image(p) * p.code_bits() * code_row_length(p) + 7) / 8;
}

inline int64_t code_plane_start(const Params& p, int64_t unit, int64_t u, int plane) {
  const int64_t image = unit / p.units_per_image();
  const int64_t row = unit % p.units_per_image() * p.h.pooled() + u;
  return image * code_bytes_per_image(p) * 8 + (row * p.code_bits() + plane) * code_row_length(p);
}

// Writes bits [0, n) of `src`, a string that starts at a byte, to bits [start, start + n) of `dst`,
// leaving the neighbours' bits of the first and last byte as they are.
inline void put_bits(uint8_t* dst, int64_t start, const uint8_t* src, int64_t n) {
  if (n <= 0) return;
  dst += start / 8;
  const int shift = int(start % 8);
  if (shift == 0) {
    std::memcpy(dst, src, size_t(n / 8));
    dst += n / 8;
    src += n / 8;
    n %= 8;
  }
  unsigned carry = shift ? *dst & ((1u << shift) - 1) : 0;  // what is due to be written at `dst`
  while (shift + n >= 64) {
    uint64_t word;
    std::memcpy(&word, src, 8);
    const uint64_t out = word << shift | carry;
    std::memcpy(dst, &out, 8);
    carry = shift ? unsigned(word >> (64 - shift)) : 0;
    // 64 bits were taken from src; `shift` of them wait in carry.
    src += 8, dst += 8, n -= 64;
  }
  // n may now be negative, down to -shift: then only carry is left.
  for (; shift + n > 0; ++dst, n -= 8) {
    unsigned byte = carry;
    if (n > 0) {
      byte |= unsigned(*src) << shift;
      carry = *src++ >> (8 - shift);
    }
    if (shift + n >= 8) {
      *dst = uint8_t(byte);
    } else {
      const unsigned mine = (1u << (shift + n)) - 1;
      *dst = uint8_t((*dst & ~mine) | (byte & mine));
    }
  }
}

// Zeroes the bits between the last row of an image and the end of its last byte: equal inputs have
// equal codes, to the bit.
inline void put_end_of_image(const Params& p, uint8_t* codes, int64_t unit) {
  const uint8_t zeros = 0;
  const int64_t end = code_plane_start(p, unit, p.h.pooled() - 1, p.code_bits());
  put_bits(codes, end, &zeros, (8 - end % 8) % 8);
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
