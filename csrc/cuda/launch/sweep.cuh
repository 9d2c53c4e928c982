// Launches the sweep of a specialised kernel. make_call and group_columns fill a Call, choose_chunk
// decides how many steps each block sweeps, and `sweep` launches the blocks. nchw.cuh and nhwc.cuh
// share this file.
#pragma once

#include <cmath>

#include "cuda/kernels/call.h"
#include "cuda/launch/launch.h"
#include "cuda/launch/specialisation.h"

namespace fastblur::cuda {

constexpr int64_t kMaxBlocks = 0x7fffffff;

inline bool is_aligned(const void* to, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(to) % uintptr_t(bytes) == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Fills the fields of a Call that are the same for both formats.
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

// Divides the rows into groups of `columns` columns, for the contiguous format.
inline void group_columns(Call& c, int columns) {
  c.groups = int(ceil_div(c.w, columns));
  c.last_group = (c.m_w - 1) / columns;
  c.last_columns = c.m_w - c.last_group * columns;
}

// Returns the chunk: the number of steps that each block sweeps. A launch has `parts` blocks for
// each chunk of the steps. `at_once` blocks, which are one wave, are on the device at a time. A
// block repeats `warm_up` steps of its neighbour and takes the time of kStart steps to begin. A
// launch therefore takes the time of waves * (chunk + warm_up + kStart) steps, and the chunk with
// the shortest time is chosen. Both constants were found on an H200.
inline int choose_chunk(int steps, int64_t parts, int64_t at_once, int warm_up) {
  constexpr int kStart = 3;     // steps that a block could do in the time of its first loads
  constexpr int kLongest = 20;  // beyond it, blocks of a wave read from ever more places at once
  int best = steps;
  int64_t best_cost = INT64_MAX;
  const int64_t fewest = ceil_div(parts * ceil_div(steps, kLongest), at_once);
  for (int64_t waves = fewest; waves < fewest + 32; ++waves) {
    const int64_t room = waves * at_once / parts;
    const int chunk = int(ceil_div(steps, room < steps ? room : steps));
    const int64_t cost =
        ceil_div(parts * ceil_div(steps, chunk), at_once) * (chunk + warm_up + kStart);
    if (cost < best_cost) best_cost = cost, best = chunk;
  }
  return best;
}

// Launches `kernel`. Each block processes `units_per_part` of the c.units over one chunk of the
// c.steps. At least `blocks` blocks fit on a multiprocessor.
inline cudaError_t sweep(void (*kernel)(Call), Call c, int64_t units_per_part, int threads,
                         int blocks, int warm_up, const Queue& queue) {
  const int64_t parts = ceil_div(c.units, units_per_part);
  if (parts > kMaxBlocks) return cudaErrorInvalidConfiguration;
  if (parts == 0) return cudaSuccess;
  const int64_t at_once = int64_t(blocks) * queue.multiprocessors;
  c.chunk = choose_chunk(c.steps, parts, at_once, warm_up);
  c.chunks = int(ceil_div(c.steps, c.chunk));
  if (parts * c.chunks > kMaxBlocks) c.chunk = c.steps, c.chunks = 1;
  return launch(kernel, dim3(unsigned(parts * c.chunks)), dim3(unsigned(threads)), queue.stream, c);
}

// The number of steps in which forward reaches all rows of y and all tile rows.
inline int forward_steps(const Call& c, const TileRows& rows) {
  const int tiles = c.tile_rows - rows.tile_shift();
  return c.y_h > tiles ? c.y_h : tiles;
}

// nchw.cuh and nhwc.cuh define these. Each has one translation unit per T in instances/, where T is
// float, __half or __nv_bfloat16.
template <class T>
cudaError_t forward_nchw_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t backward_nchw_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t forward_nhwc_as(const Params& p, Call c, const Queue& queue);
template <class T>
cudaError_t backward_nhwc_as(const Params& p, Call c, const Queue& queue);

}  // namespace fastblur::cuda
