// The position of a thread in the channels_last kernels, and its accesses to a pixel's channels in
// memory.
//
// A thread owns one vector of neighbouring channels in a strip: four columns of x and of m, and two
// of y. It also loads the columns next to its strip and repeats its neighbours' work on them, so
// threads share nothing. Channels are adjacent in memory, so a warp's accesses are coalesced into
// whole lines.
#pragma once

#include "cuda/kernels/call.h"
#include "cuda/kernels/packed.cuh"

namespace fastblur::cuda {

constexpr int kPixelThreads = 128;
constexpr int kStrip = kTileColumns;

struct Pixel {
  int64_t image;
  int strip, channel;         // channel: the thread's first
  int warp_first, warp_last;  // the strips of the warp's first and last thread; beyond the row's
                              // if they belong to other images

  FASTBLUR_DEVICE Pixel(const Call& c, int64_t unit, int channels_each) {
    const auto divide = [&](int64_t a, int b) -> int64_t {
      if (c.units <= 0x7fffffff) return unsigned(a) / unsigned(b);  // 64-bit division is slow
      return a / b;
    };
    const int64_t strips = divide(unit, c.channel_groups);
    image = divide(strips, c.groups);
    const auto in_row = [&](int64_t s) { return int(s - image * c.groups); };
    strip = in_row(strips);
    channel = int(unit - strips * c.channel_groups) * channels_each;
    warp_first = in_row(divide(unit / kWarp * kWarp, c.channel_groups));
    warp_last = in_row(divide(unit / kWarp * kWarp + kWarp - 1, c.channel_groups));
  }

  // The line of ColumnWeights for the strip's first output.
  FASTBLUR_DEVICE int line(const Call& c) const {
    return ColumnWeights::kBefore +
           (strip <= 1 ? 2 * strip : max(2 * strip - c.weights.left_out, 3));
  }

  // Whether no thread of the warp is at an end of its row: all columns of x and of y from the given
  // ones on exist, and these outputs read no padding. Columns are counted from the strip's first.
  FASTBLUR_DEVICE bool interior(const Call& c, int first_x, int last_x, int first_y,
                                int last_y) const {
    return kStrip * warp_first + first_x >= 0 && kStrip * warp_last + last_x < c.w &&
           2 * warp_first + first_y > 0 && 2 * warp_last + last_y < c.y_w - 1;
  }
};

template <int kWords>
using Cell = Vector<uint32_t, kWords>;

// The element `bytes` further on.
template <class V>
FASTBLUR_DEVICE V* plus_bytes(V* at, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<V>, const char, char>;
  return reinterpret_cast<V*>(reinterpret_cast<Byte*>(at) + bytes);
}

// Loads a thread's channels of a pixel, or their codes, from `at` as 32-bit words. `wide` says that
// the vector is aligned and that all its channels exist. Otherwise only the first `left` channels
// exist, and the others become zero.
template <int kWords, class V>
FASTBLUR_DEVICE Cell<kWords> load_vector(const V* at, int left, bool wide) {
  constexpr int kParts = kWords > 4 ? kWords / 4 : 1, kEach = kWords / kParts;
  constexpr int kPerWord = 4 / int(sizeof(V));
  Cell<kWords> cell = {};
  if (wide) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const Cell<kEach> v = load(reinterpret_cast<const Cell<kEach>*>(at) + part);
#pragma unroll
      for (int q = 0; q < kEach; ++q) cell.at[part * kEach + q] = v.at[q];
    }
    return cell;
  }
  // The loop loads one word at a time and shifts it in at the end of the vector. If all loads were
  // issued at once, they would take all registers.
  using Bits = BitsOf<sizeof(V)>;
#pragma unroll 1
  for (int first = 0; first < kWords * kPerWord; first += kPerWord) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < kPerWord; ++i)
      if (first + i < left)
        word |= uint32_t(load(reinterpret_cast<const Bits*>(at) + first + i))
                << i * 8 * int(sizeof(V));
#pragma unroll
    for (int q = 0; q + 1 < kWords; ++q) cell.at[q] = cell.at[q + 1];
    cell.at[kWords - 1] = word;
  }
  return cell;
}

template <class T, int kWords>
FASTBLUR_DEVICE void store_cell(T* at, int left, bool wide, const Cell<kWords>& cell) {
  if (wide) return store(reinterpret_cast<Cell<kWords>*>(at), cell);
  constexpr int kPerWord = Packed<T>::kPerWord;
#pragma unroll
  for (int i = 0; i < kWords * kPerWord; ++i) {
    using Bits = BitsOf<sizeof(T)>;
    if (i < left)
      store(reinterpret_cast<Bits*>(at) + i, Bits(cell.at[i / kPerWord] >> i % kPerWord * 16));
  }
}

// The TileCodes of a thread's channels for one tile. `low` collects bits 0 to 15 of each TileCode,
// and `high` the other bits. Word q of each holds the codes of the channels in word q of the data,
// side by side.
template <class T, class Code, int kWords>
struct PixelCodes {
  static constexpr int kPerWord = Packed<T>::kPerWord;
  static constexpr int kChannels = kWords * kPerWord;
  uint32_t low[kWords] = {}, high[kWords] = {};

  // Whether `high` collects bit `at` of a TileCode, and the mask of that bit in the word.
  static constexpr bool is_high(int at) { return at >= 16; }
  static constexpr uint32_t bit(int at) { return 1u << at % 16; }
  FASTBLUR_DEVICE uint32_t& of(int at, int q) { return is_high(at) ? high[q] : low[q]; }

  FASTBLUR_DEVICE uint32_t channel(int i) const {
    const int q = i / kPerWord, shift = i % kPerWord * 16;
    return (low[q] >> shift & 0xffffu) | (high[q] >> shift) << 16;
  }
  FASTBLUR_DEVICE void set_channel(int i, uint32_t code) {
#pragma unroll
    for (int q = 0; q < kWords; ++q) {
#pragma unroll
      for (int k = 0; k < kPerWord; ++k) {
        if (i == q * kPerWord + k) {
          const uint32_t mask = kPerWord == 1 ? ~0u : 0xffffu << 16 * k;
          low[q] = (low[q] & ~mask) | (code & 0xffffu) << 16 * k;
          high[q] = (high[q] & ~mask) | code >> 16 << 16 * k;
        }
      }
    }
  }

  // Stores the codes. In memory, the codes of neighbouring channels are adjacent.
  FASTBLUR_DEVICE void write(Code* to, int left, bool wide) const {
    if (wide) {
      constexpr int kBytes = kChannels * int(sizeof(Code)), kParts = kBytes > 16 ? 2 : 1;
      constexpr int kEach = kChannels / kParts, kPerPart = kBytes / kParts / 4;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        Cell<kPerPart> bits = {};
#pragma unroll
        for (int i = 0; i < kEach; ++i)
          bits.at[i * sizeof(Code) / 4] |= channel(part * kEach + i) << i * sizeof(Code) % 4 * 8;
        store(reinterpret_cast<Cell<kPerPart>*>(to) + part, bits);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kChannels; ++i)
        if (i < left) store(to + i, Code(channel(i)));
    }
  }
};

}  // namespace fastblur::cuda
