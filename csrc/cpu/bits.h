// Strings of bits, bit j of one being bit j % 8 of its byte j / 8, moved a word at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fastblur::cpu {

static_assert(std::endian::native == std::endian::little, "bits are moved in 64-bit words");

inline uint64_t get_word(const uint8_t* string, int64_t word) {
  uint64_t bits;
  std::memcpy(&bits, string + word * 8, 8);
  return bits;
}

inline void put_word(uint8_t* string, int64_t word, uint64_t bits) {
  std::memcpy(string + word * 8, &bits, 8);
}

// 64 bits of a string from any of its bits on. Reads whole words of the string, as they were
// written (a load that begins inside one store and ends in another has to wait for both), and one
// more.
struct BitReader {
  const uint8_t* bytes;
  int shift;
  BitReader() = default;
  BitReader(const uint8_t* string, int64_t bit) : bytes(string + (bit >> 6) * 8), shift(bit & 63) {}
  uint64_t operator[](int64_t word) const {
    uint64_t low, high;
    std::memcpy(&low, bytes + word * 8, 8);
    std::memcpy(&high, bytes + word * 8 + 8, 8);
    return low >> shift | high << 1 << (63 - shift);
  }
};

// Moves rows of n bits, a row every `pitch` of them, together.
inline void pack_rows(uint8_t* string, int64_t rows, int64_t n, int64_t pitch) {
  uint64_t word = 0;
  int64_t filled = 0, at = 0;  // bits of word, and words that are written
  const auto append = [&](uint64_t bits, int64_t more) {
    word |= bits << filled;
    filled += more;
    if (filled < 64) return;
    put_word(string, at++, word);
    filled -= 64;
    word = filled ? bits >> (more - filled) : 0;
  };
  const auto first = [](int64_t bits) { return ~uint64_t(0) >> (64 - bits); };
  // Rows of which a word holds some: small maps are what this is for.
  const auto append_some = [&](auto some) {
    for (int64_t r = 0; r < rows; r += some) {
      const uint64_t word_of_rows = get_word(string, r / some);
      uint64_t bits = 0;
      for (int k = 0; k < some; ++k) bits |= (word_of_rows >> 64 / some * k & first(n)) << k * n;
      append(bits, n * (rows - r < some ? rows - r : some));
    }
  };
  if (pitch == 16) {
    append_some(std::integral_constant<int, 4>{});
  } else if (pitch == 32) {
    append_some(std::integral_constant<int, 2>{});
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      const BitReader row(string, r * pitch);
      for (int64_t k = 0; k < n; k += 64) {
        const int64_t more = n - k < 64 ? n - k : 64;
        append(row[k / 64] & first(more), more);
      }
    }
  }
  put_word(string, at, word);
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

// Writes bits [0, n) of `src`, a string that starts at a word, to bits [start, start + n) of `dst`,
// leaving the neighbours' bits of the first and last byte as they are. Reads `src` as BitReader
// does.
inline void put_bits(uint8_t* dst, int64_t start, const uint8_t* src, int64_t n, bool shared) {
  if (n <= 0) return;
  dst += start / 8;
  int64_t done = 0;
  if (const int shift = int(start % 8)) {
    done = n < 8 - shift ? n : 8 - shift;
    put_part_of_byte(dst++, unsigned(*src) << shift, ((1u << done) - 1) << shift, shared);
  }
  const BitReader from(src, done);
  n -= done;
  int64_t w = 0;
  for (; n >= 64; ++w, n -= 64) put_word(dst, w, from[w]);
  if (n == 0) return;
  dst += 8 * w;
  uint64_t rest = from[w];
  const auto put = [&](auto part) {
    if (n < int64_t(8 * sizeof part)) return;
    std::memcpy(dst, &(part = decltype(part)(rest)), sizeof part);
    rest >>= 8 * sizeof part, dst += sizeof part, n -= 8 * sizeof part;
  };
  put(uint32_t()), put(uint16_t()), put(uint8_t());
  if (n > 0) put_part_of_byte(dst, unsigned(rest), (1u << n) - 1, shared);
}

// Reads bits [start, start + n) of `src` to bits [0, n) of `dst`, which is written in whole words;
// those behind n become zero. Touches no byte of `src` beyond the range.
inline void get_bits(uint8_t* dst, const uint8_t* src, int64_t start, int64_t n) {
  if (n <= 0) return;
  src += start / 8;
  const int shift = int(start % 8);
  const auto word_at = [&](int64_t i, int64_t bytes) {  // of the bytes from i on, those in range
    uint64_t low = 0;
    if (bytes >= 8) std::memcpy(&low, src + i, 8);
    else
      for (int64_t k = 0; k < bytes; ++k) low |= uint64_t(src[i + k]) << 8 * k;
    return low >> shift | (bytes > 8 ? uint64_t(src[i + 8]) << 1 << (63 - shift) : 0);
  };
  int64_t i = 0;
  for (; n - 8 * i >= 64; i += 8) {
    const uint64_t word = word_at(i, shift ? 9 : 8);
    std::memcpy(dst + i, &word, 8);
  }
  const int64_t left = n - 8 * i;
  const uint64_t last = word_at(i, (shift + left + 7) / 8) & ((uint64_t(1) << left) - 1);
  std::memcpy(dst + i, &last, 8);
}

}  // namespace fastblur::cpu
