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

#include "../max_blur_pool.h"
#include "bits.h"

namespace fastblur::cpu {

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

// Zeroes the bits between the last row of an image and the end of its last byte: equal inputs have
// equal codes, to the bit.
inline void put_end_of_image(const Params& p, uint8_t* codes, int64_t image, bool shared) {
  const uint8_t zeros[2 * sizeof(uint64_t)] = {};
  const int64_t bits = p.units_per_image() * code_bits_per_unit(p);
  const int64_t end = image * code_bytes_per_image(p) * 8 + bits;
  put_bits(codes, end, zeros, (8 - end % 8) % 8, shared);
}

}  // namespace fastblur::cpu
