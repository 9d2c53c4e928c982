// The launch arithmetic of the specialised kernels: what a call is for the kernels, how many blocks
// there are, and how long each marches.
#pragma once

#include <cmath>

#include "call.h"
#include "launch.h"
#include "specialisation.h"

namespace fastblur::cuda {

constexpr int64_t kMostBlocks = 0x7fffffff;  // along x; 65535 along y

inline bool is_aligned(const void* to, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(to) % uintptr_t(bytes) == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The parts of a Call that depend on sizes alone.
inline Call make_call(const Params& p, const void* in, void* out, void* codes) {
  Call c{};
  c.in = in;
  c.out = out;
  c.codes = codes;
  c.code_bytes_per_image = tile_words_per_image(p) * 4;
  c.channels = p.channels;
  c.h = int(p.h.size), c.w = int(p.w.size);
  c.m_h = int(p.h.pooled()), c.m_w = int(p.w.pooled());
  c.y_h = int(p.h.out()), c.y_w = int(p.w.out());
  c.after_h = int(p.h.after);
  c.tile_rows = int(TileRows{p.h.pool, int(p.h.pad), p.h.n_taps}.count(c.m_h));
  c.tile_columns = int(tile_columns(c.m_w));
  c.border = p.border;
  c.floor = p.relu ? 0 : -INFINITY;
  for (int i = 0; i < p.h.n_taps; ++i) c.taps_h[i] = float(p.taps_h[i]);
  for (int i = 0; i < p.w.n_taps; ++i) c.taps_w[i] = float(p.taps_w[i]);
  return c;
}

// Where the columns of a row of `columns` to a group lie.
inline void group_columns(Call& c, int columns) {
  c.groups = int(ceil_div(c.w, columns));
  c.last_group = (c.m_w - 1) / columns;
  c.last_columns = c.m_w - c.last_group * columns;
}

// Steps of a block's march. Whole columns are best, since neighbouring chunks of rows read the rows
// between them twice; but the device must be full. `blocks` march side by side.
inline int choose_chunk(int steps, int64_t blocks, int multiprocessors) {
  constexpr int kLong = 16;  // rereads at most a tenth
  constexpr int kShort = 2;  // and no more than half, where processors would idle
  const int64_t full = int64_t(multiprocessors) * 8;
  const auto split = [&](int64_t wanted, int shortest) {
    const int64_t chunks = ceil_div(wanted, blocks);
    const int64_t chunk = ceil_div(steps, chunks);
    return int(chunk < shortest ? (steps < shortest ? steps : shortest) : chunk);
  };
  int chunk = blocks >= full ? steps : split(full, kLong);
  if (blocks * ceil_div(steps, chunk) < multiprocessors * 2)
    chunk = split(multiprocessors * 2, kShort);
  const int64_t most = ceil_div(steps, 65535);
  return chunk < most ? int(most) : chunk;
}

// Launches `kernel` on blocks that take `units_per_block` of c.units each, and c.steps in chunks.
inline cudaError_t march(void (*kernel)(Call), Call c, int64_t units_per_block, int threads,
                         const Queue& queue) {
  const int64_t blocks = ceil_div(c.units, units_per_block);
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  if (blocks == 0) return cudaSuccess;
  c.chunk = choose_chunk(c.steps, blocks, queue.multiprocessors);
  const dim3 grid(unsigned(blocks), unsigned(ceil_div(c.steps, c.chunk)));
  return launch(kernel, grid, dim3(unsigned(threads)), queue.stream, c);
}

// The steps in which forward visits all rows of y, and all tile rows.
inline int forward_steps(const Call& c, const TileRows& rows) {
  const int tiles = c.tile_rows - rows.tile_shift();
  return c.y_h > tiles ? c.y_h : tiles;
}

// One translation unit for each; T is float, __half or __nv_bfloat16.
template <class T>
cudaError_t forward_contiguous_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t backward_contiguous_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t forward_channels_last_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t backward_channels_last_as(const Params& p, Call c, const Queue& queue);

}  // namespace fastblur::cuda
