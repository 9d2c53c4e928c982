// The checks of plan.h: first the arguments of the constructor, then the sizes of an input.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace fastblur {
namespace {

std::ostream& operator<<(std::ostream& out, const std::vector<int64_t>& values) {
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  return out << ']';
}

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) refuse(parts...);
}

Border parse_border(const std::string& mode) {
  if (mode == "reflect") return Border::reflect;
  if (mode == "replicate") return Border::replicate;
  if (mode == "zeros") return Border::zeros;
  if (mode == "circular") return Border::circular;
  refuse("padding_mode must be 'reflect', 'replicate', 'zeros' or 'circular', got '", mode, "'");
}

void check_length(const std::vector<int64_t>& values, size_t length, const char* name) {
  require(values.size() == length, name, " must have ", length, " entries, got ", values);
}

void copy_taps(const std::vector<double>& taps, const char* name, double* out) {
  require(!taps.empty() && taps.size() <= size_t(kMaxTaps), name, " must have 1 to ", kMaxTaps,
          " entries, got ", taps.size());
  for (size_t i = 0; i < taps.size(); ++i)
    require(std::isfinite(taps[i]), name, " must be finite, got ", taps[i], " at index ", i);
  std::copy(taps.begin(), taps.end(), out);
}

// Bounds of a size and of every other argument. Within them, all sums are exact in int64_t.
constexpr int64_t kMaxSize = int64_t(1) << 58;
constexpr int64_t kMaxExtent = int64_t(1) << 31;

Axis make_axis(const char* side, int64_t pool, int64_t stride, int64_t pad, size_t n_taps,
               int64_t before, int64_t after) {
  require(pool >= 1 && pool <= kMaxPool, "kernel_size must be 1 to ", kMaxPool, ", got ", pool,
          " along the ", side);
  require(stride >= 1 && stride < kMaxExtent, "stride must be 1 to ", kMaxExtent - 1, ", got ",
          stride, " along the ", side);
  require(pad >= 0 && pad <= pool / 2, "padding must be 0 to half of kernel_size ", pool, ", got ",
          pad, " along the ", side);
  require(before >= 0 && after >= 0 && before < kMaxExtent && after < kMaxExtent,
          "blur_padding must be 0 to ", kMaxExtent - 1, ", got (", before, ", ", after,
          ") along the ", side);
  return {0, pad, stride, before, after, int(pool), int(n_taps)};
}

void set_size(Axis& axis, const char* side, int64_t size, Border border) {
  require(size >= 1, "input must have a ", side, " of 1 or more, got ", size);
  require(size < kMaxSize, "input is too large: its ", side, " is ", size);
  axis.size = size;
  const int64_t m = axis.pooled(), widest = std::max(axis.before, axis.after);
  require(m >= 1, "kernel_size ", axis.pool, " is larger than the padded input, ",
          size + 2 * axis.pad, " along the ", side);
  require(border != Border::reflect || widest < m,
          "padding_mode 'reflect' needs blur_padding smaller than the pooled map: got ", widest,
          " for ", m, " along the ", side);
  require(border != Border::circular || widest <= m,
          "padding_mode 'circular' needs blur_padding no larger than the pooled map: got ", widest,
          " for ", m, " along the ", side);
  require(axis.padded() >= axis.n_taps, "taps (", axis.n_taps,
          ") are longer than the padded pooled map, ", axis.padded(), " along the ", side);
}

}  // namespace

Plan::Plan(const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
           const std::vector<int64_t>& padding, const std::vector<double>& taps_h,
           const std::vector<double>& taps_w, const std::vector<int64_t>& blur_padding,
           const std::string& padding_mode, bool relu) {
  check_length(kernel_size, 2, "kernel_size");
  check_length(stride, 2, "stride");
  check_length(padding, 2, "padding");
  check_length(blur_padding, 4, "blur_padding");
  Params& p = geometry_;
  p.border = parse_border(padding_mode);
  p.relu = relu;
  copy_taps(taps_h, "taps_h", p.taps_h);
  copy_taps(taps_w, "taps_w", p.taps_w);
  p.h = make_axis("height", kernel_size[0], stride[0], padding[0], taps_h.size(), blur_padding[0],
                  blur_padding[1]);
  p.w = make_axis("width", kernel_size[1], stride[1], padding[1], taps_w.size(), blur_padding[2],
                  blur_padding[3]);
}

Params Plan::params(const Input& input) const {
  require(input.n >= 0, "input must have a batch of 0 or more, got ", input.n);
  require(input.c >= 1, "input must have 1 channel or more, got ", input.c);
  Params p = geometry_;
  p.batch = input.n;
  p.channels = input.c;
  p.channels_last = input.channels_last;
  set_size(p.h, "height", input.h, p.border);
  set_size(p.w, "width", input.w, p.border);
  // The number of bytes must fit in 63 bits, at 8 bytes per element and with room to spare.
  double largest = double(p.batch) * double(p.channels);
  for (const Axis& axis : {p.h, p.w}) largest *= double(axis.size + axis.padded());
  if (largest >= double(kMaxSize))
    refuse("input is too large: ", std::vector{input.n, input.c, input.h, input.w},
           ", padded to maps of ", p.h.padded(), " x ", p.w.padded());
  return p;
}

}  // namespace fastblur
