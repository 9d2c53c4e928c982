// What a specialised kernel is launched with. Plain data, in the constant bank.
#pragma once

#include "cuda/codes.h"
#include "cuda/runtime.h"

namespace fastblur::cuda {

constexpr int kMaxSpecialTaps = 5;

struct Call {
  const void* in;  // x, or dy
  void* out;       // y, or dx
  void* codes;     // null: none are kept
  int64_t code_bytes_per_image;
  int64_t units;  // runs of work: see the kernels
  int64_t channels;
  int h, w;      // of x
  int m_h, m_w;  // of m
  int y_h, y_w;  // of y
  int after_h;   // blur padding below
  int tile_rows, tile_columns;
  int channel_groups;  // of channels, in a pixel; channels_last only
  int groups;          // of columns, in a row of x
  int last_group;      // the group that holds the last column of m,
  int last_columns;    // and how many columns of m it has
  int steps, chunk;    // steps of the sweep in all, and for each block
  int chunks;          // blocks that share the sweep
  Border border;
  float floor;          // 0 for ReLU, else -inf: for kernels that keep no codes
  bool wide_x, wide_y;  // whether whole vectors of x and dx, of y and dy, are aligned,
  bool regular;         // and both, and padding is by reflection
  float taps_h[kMaxSpecialTaps], taps_w[kMaxSpecialTaps];
};

constexpr int kPrefetchSteps = 2;  // steps by which rows are prefetched before they are loaded

// A block takes one part of the units down one chunk of the steps. The blocks of a part are
// neighbours, so that rows that two of them read are still in L2 for the second.
FASTBLUR_DEVICE int64_t part_of_units(const Call& c) { return blockIdx.x / unsigned(c.chunks); }
FASTBLUR_DEVICE int chunk_of_steps(const Call& c) { return int(blockIdx.x % unsigned(c.chunks)); }

// taps[i] for an index that is only known at run time, or 0 where there is none: an indexed array
// would be kept in memory.
template <int F>
FASTBLUR_DEVICE float tap_at(const float (&taps)[kMaxSpecialTaps], int i) {
  float tap = 0;
#pragma unroll
  for (int a = 0; a < F; ++a) tap = i == a ? taps[a] : tap;
  return tap;
}

// The tap with which the last output of a run of columns of m that begins at an even column, and
// has so many to the row's end, reads padding `t` beyond them; F or more if it does not read it.
template <int F>
FASTBLUR_HD constexpr int padding_tap(int columns, int t) {
  return (columns % 2 ? 1 : 2) + t + (F - 1) / 2;
}

}  // namespace fastblur::cuda
