// Params: everything that a kernel knows about a call except its tensors. The kernels of the CPU
// and of CUDA share it.
#pragma once

#include "geometry.h"

namespace fastblur {

// The type of the elements of x, y and their gradients.
enum class Type : int { f32, f64, f16, bf16 };

// The geometry of one call, with the size of x, as plain data.
struct Params {
  int64_t batch, channels;
  Axis h, w;
  Border border;
  bool relu;
  bool channels_last;
  double taps_h[kMaxTaps], taps_w[kMaxTaps];

  // Without max and ReLU the operation is linear: there are no winners and no codes.
  FASTBLUR_HD bool linear() const { return h.pool == 1 && w.pool == 1 && !relu; }
  FASTBLUR_HD int code_bits() const { return column_bits(w.pool) + row_bits(h.pool, relu); }

  // A plane is what a kernel processes alone: a channel of a contiguous map, or all channels of a
  // channels_last map. A row of a plane is its columns side by side, pixel_stride() elements each:
  // one element in a contiguous map, all channels of the pixel in a channels_last map.
  FASTBLUR_HD int64_t planes_per_image() const { return channels_last ? 1 : channels; }
  FASTBLUR_HD int64_t planes() const { return batch * planes_per_image(); }
  FASTBLUR_HD int64_t pixel_stride() const { return channels_last ? channels : 1; }
};

}  // namespace fastblur
