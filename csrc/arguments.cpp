#include "arguments.h"

#include <cmath>

namespace fastblur {
namespace {

Border parse_border(std::string_view mode) {
  if (mode == "reflect") return Border::reflect;
  if (mode == "replicate") return Border::replicate;
  if (mode == "zeros") return Border::zeros;
  if (mode == "circular") return Border::circular;
  TORCH_CHECK_VALUE(false,
                    "padding_mode must be 'reflect', 'replicate', 'zeros' or 'circular', got '",
                    mode, "'");
}

void check_length(at::IntArrayRef values, size_t length, const char* name) {
  TORCH_CHECK_VALUE(values.size() == length, name, " must have ", length, " entries, got ", values);
}

void copy_taps(at::ArrayRef<double> taps, const char* name, double* out) {
  TORCH_CHECK_VALUE(!taps.empty() && taps.size() <= size_t(kMaxTaps), name, " must have 1 to ",
                    kMaxTaps, " entries, got ", taps.size());
  for (size_t i = 0; i < taps.size(); ++i) {
    TORCH_CHECK_VALUE(std::isfinite(taps[i]), name, " must be finite, got ", taps[i], " at index ",
                      i);
    out[i] = taps[i];
  }
}

// Of a size, and of any other argument: keeps every sum of them exact.
constexpr int64_t kMaxSize = int64_t(1) << 58;
constexpr int64_t kMaxExtent = int64_t(1) << 31;

Axis make_axis(const char* side, int64_t size, int64_t pool, int64_t stride, int64_t pad,
               size_t n_taps, int64_t before, int64_t after, Border border) {
  TORCH_CHECK_VALUE(pool >= 1 && pool <= kMaxPool, "kernel_size must be 1 to ", kMaxPool, ", got ",
                    pool, " along the ", side);
  TORCH_CHECK_VALUE(stride >= 1 && stride < kMaxExtent, "stride must be 1 to ", kMaxExtent - 1,
                    ", got ", stride, " along the ", side);
  TORCH_CHECK_VALUE(pad >= 0 && pad <= pool / 2, "padding must be 0 to half of kernel_size ", pool,
                    ", got ", pad, " along the ", side);
  TORCH_CHECK_VALUE(before >= 0 && after >= 0 && before < kMaxExtent && after < kMaxExtent,
                    "blur_padding must be 0 to ", kMaxExtent - 1, ", got (", before, ", ", after,
                    ") along the ", side);
  TORCH_CHECK_VALUE(size >= 1, "input must have a ", side, " of 1 or more, got ", size);
  TORCH_CHECK_VALUE(size < kMaxSize, "input is too large: its ", side, " is ", size);
  const Axis axis{size, pad, stride, before, after, int(pool), int(n_taps)};
  const int64_t m = axis.pooled();
  TORCH_CHECK_VALUE(m >= 1, "kernel_size ", pool, " is larger than the padded input, ",
                    size + 2 * pad, " along the ", side);
  const int64_t widest = before > after ? before : after;
  TORCH_CHECK_VALUE(border != Border::reflect || widest < m,
                    "padding_mode 'reflect' needs blur_padding smaller than the pooled map: got ",
                    widest, " for ", m, " along the ", side);
  TORCH_CHECK_VALUE(
      border != Border::circular || widest <= m,
      "padding_mode 'circular' needs blur_padding no larger than the pooled map: got ", widest,
      " for ", m, " along the ", side);
  TORCH_CHECK_VALUE(axis.padded() >= axis.n_taps, "taps (", n_taps,
                    ") are longer than the padded pooled map, ", axis.padded(), " along the ",
                    side);
  return axis;
}

}  // namespace

OwnedArguments::OwnedArguments(const Arguments& a) : padding_mode(a.padding_mode) {
  for (const auto& list : {a.kernel_size, a.stride, a.padding, a.blur_padding})
    ints.insert(ints.end(), list.begin(), list.end());
  ints.push_back(a.relu);
  ints.push_back(a.channels_last);
  ints.push_back(int64_t(a.taps_h.size()));
  taps.assign(a.taps_h.begin(), a.taps_h.end());
  taps.insert(taps.end(), a.taps_w.begin(), a.taps_w.end());
}

Arguments OwnedArguments::arguments() const {
  const at::IntArrayRef all(ints);
  const at::ArrayRef<double> both(taps);
  const auto n_taps_h = size_t(all.back());
  return {all.slice(0, 2),      all.slice(2, 2), all.slice(4, 2), both.slice(0, n_taps_h),
          both.slice(n_taps_h), all.slice(6, 4), padding_mode,    all[10] != 0,
          all[11] != 0};
}

Params make_params(at::IntArrayRef input_size, const Arguments& args) {
  check_length(input_size, 4, "input_size");
  check_length(args.kernel_size, 2, "kernel_size");
  check_length(args.stride, 2, "stride");
  check_length(args.padding, 2, "padding");
  check_length(args.blur_padding, 4, "blur_padding");
  TORCH_CHECK_VALUE(input_size[0] >= 0, "input must have a batch of 0 or more, got ",
                    input_size[0]);
  TORCH_CHECK_VALUE(input_size[1] >= 1, "input must have 1 channel or more, got ", input_size[1]);
  Params p{};
  p.batch = input_size[0];
  p.channels = input_size[1];
  p.border = parse_border(args.padding_mode);
  p.relu = args.relu;
  p.channels_last = args.channels_last;
  copy_taps(args.taps_h, "taps_h", p.taps_h);
  copy_taps(args.taps_w, "taps_w", p.taps_w);
  p.h = make_axis("height", input_size[2], args.kernel_size[0], args.stride[0], args.padding[0],
                  args.taps_h.size(), args.blur_padding[0], args.blur_padding[1], p.border);
  p.w = make_axis("width", input_size[3], args.kernel_size[1], args.stride[1], args.padding[1],
                  args.taps_w.size(), args.blur_padding[2], args.blur_padding[3], p.border);
  // Eight bytes an element, with room to spare, must count in 63 bits.
  double largest = double(p.batch) * double(p.channels);
  for (const Axis& axis : {p.h, p.w}) largest *= double(axis.size + axis.padded());
  TORCH_CHECK_VALUE(largest < double(kMaxSize), "input is too large: ", input_size,
                    ", padded to maps of ", p.h.padded(), " x ", p.w.padded());
  return p;
}

void check_tensor(const at::Tensor& t, const char* name) {
  TORCH_CHECK_TYPE(t.layout() == at::kStrided, name, " must be a dense tensor, got layout ",
                   t.layout());
  const auto dtype = t.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      name, " must be float32, float64, float16 or bfloat16, got ", dtype);
  TORCH_CHECK_VALUE(t.dim() == 4, name, " must have 4 dimensions (N, C, H, W), got ", t.dim());
}

void check_grad_output(const Params& p, const at::Tensor& dy) {
  const auto size = output_size(p);
  TORCH_CHECK_VALUE(dy.sizes() == at::IntArrayRef(size),
                    "grad_output must have the output's shape ", at::IntArrayRef(size), ", got ",
                    dy.sizes());
}

void check_codes(const Params& p, const at::Tensor& codes, const at::Tensor& beside,
                 at::ScalarType type, int64_t per_image) {
  TORCH_CHECK(codes.device() == beside.device(), "codes must be on the input's device ",
              beside.device(), ", got ", codes.device());
  TORCH_CHECK_TYPE(codes.scalar_type() == type, "codes must be the ",
                   c10::getDtypeNames(type).first, " tensor that forward returned on device type ",
                   beside.device().type(), ", got ", c10::getDtypeNames(codes.scalar_type()).first);
  TORCH_CHECK_VALUE(codes.sizes() == at::IntArrayRef({p.batch, per_image}),
                    "codes must belong to this geometry, which has shape [", p.batch, ", ",
                    per_image, "], got ", codes.sizes());
}

std::array<int64_t, 4> output_size(const Params& p) {
  return {p.batch, p.channels, p.h.out(), p.w.out()};
}

}  // namespace fastblur
