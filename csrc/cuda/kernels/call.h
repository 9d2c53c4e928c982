// Call is the argument of every specialised kernel: the pointers, sizes and taps of a call, as
// plain data in the constant bank. The launch functions in launch/ fill it. The functions below
// give a block its part of the sweep and look up taps.
#pragma once

#include <climits>

#include "cuda/codes.h"
#include "cuda/runtime.h"

namespace fastblur::cuda {

constexpr int kMaxSpecialTaps = 5;

// B_h with its padding, as a matrix: output j of a row is the sum over b of of[..][1 + b] times
// column 2 * j - before + b of m. Only the first and the last output of a row read padding, and all
// others have the taps as weights. So a long row is as good as one of kOutputs outputs, and `of`
// has a line for each of these and for some that do not exist, whose weights are zero.
struct ColumnWeights {
  static constexpr int kOutputs = 9, kBefore = 2, kAfter = 5;
  float of[kBefore + kOutputs + kAfter][1 + kMaxSpecialTaps];
  int left_out;  // outputs of the row beyond kOutputs
  int reaching;  // the output that reads column b = -1 too: the last one, or kNone
  static constexpr int kNone = INT_MIN;
};

struct Call {
  const void* in;  // x, or dy
  void* out;       // y, or dx
  void* codes;     // null if none are kept
  int64_t code_bytes_per_image;
  int64_t units;  // pieces of work, one per thread: see lane.cuh and pixel.cuh
  int64_t channels;
  int64_t x_row, y_row, tile_row;  // bytes of a row of pixels or of their codes; channels_last only
  int pixel, tile;                 // bytes of a pixel or of its codes; channels_last only
  int h, w;                        // of x
  int m_h, m_w;                    // of m
  int y_h, y_w;                    // of y
  int after_h;                     // blur padding below m
  int tile_rows, tile_columns;
  int channel_groups;  // vectors of channels in a pixel; channels_last only
  int groups;          // vectors of columns (contiguous) or strips (channels_last) in a row
  int last_group;      // the group that holds the last column of m; contiguous only
  int last_columns;    // columns of m in last_group; contiguous only
  int steps, chunk;    // steps of the whole sweep, and of one block
  int chunks;          // blocks that share one sweep
  Border border;
  float floor;          // 0 with ReLU, otherwise -inf; for kernels that keep no codes
  bool wide_x, wide_y;  // channels_last only: x and dx, or y and dy, are whole aligned vectors
  bool regular;  // contiguous only: the widest accesses, rows of whole groups, border mode reflect
  float taps_h[kMaxSpecialTaps], taps_w[kMaxSpecialTaps];
  ColumnWeights weights;  // channels_last only
  int each_x, each_y;     // contiguous only: columns of x and dx, or y and dy, in an access
};

constexpr int kPrefetchSteps = 2;  // a row is prefetched this many steps before it is loaded

// A block processes one part of the units over one chunk of the steps. The blocks of a part are
// neighbours in the grid, so rows that two of them read are still in L2 for the second one.
FASTBLUR_DEVICE int64_t part_of_units(const Call& c) { return blockIdx.x / unsigned(c.chunks); }
FASTBLUR_DEVICE int chunk_of_steps(const Call& c) { return int(blockIdx.x % unsigned(c.chunks)); }

// taps[i], or 0 if there is no such tap, for an i that is known only at run time. An array with a
// computed index would be kept in memory.
template <int F>
FASTBLUR_DEVICE float tap_at(const float (&taps)[kMaxSpecialTaps], int i) {
  float tap = 0;
#pragma unroll
  for (int a = 0; a < F; ++a) tap = i == a ? taps[a] : tap;
  return tap;
}

// The blur reads padding at the right end of a row. Let a group begin at an even column and hold
// the last `columns` columns of m. Returns the tap with which the last output of the row reads
// padding column t (0 is the first after m). The result is F or more if the output does not read
// it.
template <int F>
FASTBLUR_HD constexpr int padding_tap(int columns, int t) {
  return (columns % 2 ? 1 : 2) + t + (F - 1) / 2;
}

}  // namespace fastblur::cuda
