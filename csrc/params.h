// What a kernel needs to know.
#pragma once

#include "geometry.h"

namespace fastblur {

// Of the elements of x, y and their gradients.
enum class Type : int { f32, f64, f16, bf16 };

// The whole geometry of one call, as plain data.
struct Params {
  int64_t batch, channels;
  Axis h, w;
  Border border;
  bool relu;
  bool channels_last;
  double taps_h[kMaxTaps], taps_w[kMaxTaps];

  // With neither max nor ReLU the op is linear: nobody is chosen, and there are no codes.
  FASTBLUR_HD bool linear() const { return h.pool == 1 && w.pool == 1 && !relu; }
  FASTBLUR_HD int code_bits() const { return column_bits(w.pool) + row_bits(h.pool, relu); }

  // A kernel sweeps `planes` images of rows. A row is its columns side by side, `pixel_stride`
  // elements each: one element in a contiguous map, all channels of a pixel in a channels_last one.
  FASTBLUR_HD int64_t planes_per_image() const { return channels_last ? 1 : channels; }
  FASTBLUR_HD int64_t planes() const { return batch * planes_per_image(); }
  FASTBLUR_HD int64_t pixel_stride() const { return channels_last ? channels : 1; }
};

}  // namespace fastblur
