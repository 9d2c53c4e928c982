// Strings of bits. Bit j of a string is bit j % 8 of its byte j / 8. The functions read, write and
// join strings one 64-bit word at a time.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace fastblur::cpu {

static_assert(std::endian::native == std::endian::little,
              "bits move in 64-bit words, which needs a little-endian machine");

inline uint64_t get_word(const uint8_t* string, int64_t word) {
  uint64_t bits;
  std::memcpy(&bits, string + word * 8, 8);
  return bits;
}

inline void put_word(uint8_t* string, int64_t word, uint64_t bits) {
  std::memcpy(string + word * 8, &bits, 8);
}

// Reads 64 bits of a string, from any bit on. It loads the words of the string as they were
// written, because a load that begins inside one store and ends in another must wait for both. It
// always loads two words, even if the bits are in one.
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

// The same for bytes that were not written recently: loads 8 bytes from the byte of the first bit
// on, and the byte after them.
inline uint64_t bits_at(const uint8_t* bytes, int64_t bit) {
  const uint8_t* const at = bytes + (bit >> 3);
  const int shift = int(bit & 7);
  return get_word(at, 0) >> shift | uint64_t(at[8]) << 1 << (63 - shift);
}

inline uint64_t first_bits(int64_t n) { return ~uint64_t(0) >> (64 - n); }  // 1 <= n <= 64

// Writes n bits to whole bytes. Bits of a word that are not in `mask` become zero, and so do the
// bits after the n-th in the last byte.
inline void put_bits(uint8_t* bytes, BitReader from, int64_t n, uint64_t mask = ~uint64_t(0)) {
  int64_t w = 0;
  for (; n >= 64; ++w, n -= 64) put_word(bytes, w, from[w] & mask);
  if (n <= 0) return;
  const uint64_t rest = from[w] & mask & first_bits(n);
  bytes += 8 * w;
  const int64_t left = (n + 7) / 8;
  const auto put_ends = [&](auto end) {  // two stores, which usually overlap
    std::memcpy(bytes, &(end = decltype(end)(rest)), sizeof end);
    const int64_t last = left - int64_t(sizeof end);
    std::memcpy(bytes + last, &(end = decltype(end)(rest >> 8 * last)), sizeof end);
  };
  if (left >= 4) put_ends(uint32_t());
  else if (left >= 2) put_ends(uint16_t());
  else *bytes = uint8_t(rest);
}

// The word at an address. Bytes from `end` on, the end of the memory, are not read and count as 0.
inline uint64_t get_word_until(const uint8_t* at, const uint8_t* end) {
  uint64_t bits = 0;
  if (end - at >= 8) std::memcpy(&bits, at, 8);
  else
    for (int k = 0; at + k < end; ++k) bits |= uint64_t(at[k]) << 8 * k;
  return bits;
}

// Joins rows of n bits into one string without gaps. In `bytes`, each row begins at a whole byte;
// `end` is the end of that memory.
inline void join_rows(uint8_t* string, const uint8_t* bytes, const uint8_t* end, int64_t rows,
                      int64_t n) {
  const int64_t row_bytes = (n + 7) / 8;
  if (n % 8 == 0) {
    std::memcpy(string, bytes, size_t(rows * row_bytes));
    return;
  }
  uint64_t word = 0;
  int64_t filled = 0, at = 0;  // bits in `word`; words written
  for (int64_t r = 0; r < rows; ++r, bytes += row_bytes) {
    for (int64_t k = 0; k < n; k += 64) {
      const int64_t more = n - k < 64 ? n - k : 64;
      const uint64_t bits = get_word_until(bytes + k / 8, end) & first_bits(more);
      word |= bits << filled;
      filled += more;
      if (filled < 64) continue;
      put_word(string, at++, word);
      filled -= 64;
      word = filled ? bits >> (more - filled) : 0;
    }
  }
  put_word(string, at, word);
}

}  // namespace fastblur::cpu
