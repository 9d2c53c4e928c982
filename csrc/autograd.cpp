// Derivatives of the three operators, each by another of them (docs/how_it_works.md):
//
//   forward  y  = B S(x) x      its backward is  backward
//   backward dx = S' B' dy      its backward is  apply      (linear in dy, S given by the codes)
//   apply    y  = B S x         its backward is  backward   (linear in x)
//
// The codes are data, not a function one can differentiate. Forward mode is here too: the map is
// linear once its winners are known, so a tangent goes through the same map. What C++ cannot have,
// the transforms of torch.func, is in fastblur/_autograd.py, which wraps the operators.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "call_operators.h"

namespace fastblur {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

void save(AutogradContext& ctx, const Arguments& a) {
  OwnedArguments owned(a);
  ctx.saved_data["ints"] = std::move(owned.ints);
  ctx.saved_data["taps"] = std::move(owned.taps);
  ctx.saved_data["padding_mode"] = std::move(owned.padding_mode);
}

OwnedArguments saved_arguments(const AutogradContext& ctx) {
  OwnedArguments owned;
  owned.ints = ctx.saved_data.at("ints").toIntVector();
  owned.taps = ctx.saved_data.at("taps").toDoubleVector();
  owned.padding_mode = ctx.saved_data.at("padding_mode").toStringRef();
  return owned;
}

// What forward and apply share: dx = S' B' dy.
variable_list backward_to_input(AutogradContext* ctx, const at::Tensor& dy, size_t n_arguments) {
  variable_list grads(n_arguments);
  if (!dy.defined()) return grads;
  const auto saved = ctx->get_saved_variables();
  grads[0] = call_backward(dy, saved[0], ctx->saved_data["input_size"].toSymIntVector(),
                           saved_arguments(*ctx).arguments());
  return grads;
}

struct MaxBlurPoolForward : Function<MaxBlurPoolForward> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const Arguments& a) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, codes] = call_forward(x, a, true);
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable({codes});
    ctx->save_for_backward({codes});
    ctx->saved_data["input_size"] = x.sym_sizes();
    save(*ctx, a);
    return {y, codes};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return backward_to_input(ctx, grads[0], 2);
  }
};

struct MaxBlurPoolBackward : Function<MaxBlurPoolBackward> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& dy, const at::Tensor& codes,
                            c10::SymIntArrayRef input_size, const Arguments& a) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({codes});
    save(*ctx, a);
    return call_backward(dy, codes, input_size, a);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(4);
    if (grads[0].defined())
      result[0] =
          call_apply(grads[0], ctx->get_saved_variables()[0], saved_arguments(*ctx).arguments());
    return result;
  }
};

struct MaxBlurPoolApply : Function<MaxBlurPoolApply> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& codes,
                            const Arguments& a) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({codes});
    ctx->saved_data["input_size"] = x.sym_sizes();
    save(*ctx, a);
    return call_apply(x, codes, a);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    return backward_to_input(ctx, grads[0], 3);
  }
};

bool needs_graph(const at::Tensor& t) { return t.requires_grad() && at::GradMode::is_enabled(); }

// The operators on primals, recorded for reverse mode where that is asked for.
std::tuple<at::Tensor, at::Tensor> record_forward(const at::Tensor& x, const Arguments& a,
                                                  bool need_codes) {
  if (needs_graph(x)) {
    TORCH_CHECK_VALUE(need_codes, "need_codes must be True for an input that requires grad");
    auto out = MaxBlurPoolForward::apply(x, a);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, a, need_codes);
}

at::Tensor record_backward(const at::Tensor& dy, const at::Tensor& codes,
                           c10::SymIntArrayRef input_size, const Arguments& a) {
  if (needs_graph(dy)) return MaxBlurPoolBackward::apply(dy, codes, input_size, a);
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, codes, input_size, a);
}

at::Tensor record_apply(const at::Tensor& x, const at::Tensor& codes, const Arguments& a) {
  if (needs_graph(x)) return MaxBlurPoolApply::apply(x, codes, a);
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_apply(x, codes, a);
}

// Forward mode has one level in torch, number 0. Returns the tangent, undefined if there is none,
// and leaves the primal in x.
at::Tensor split_dual(at::Tensor& x) {
  at::Tensor tangent = x._fw_grad(/*level=*/0);
  if (tangent.defined()) x = x._fw_primal(/*level=*/0);
  return tangent;
}

at::Tensor make_dual(at::Tensor y, const at::Tensor& tangent) {
  y._set_fw_grad(tangent, /*level=*/0, /*is_inplace_op=*/false);
  return y;
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x, at::IntArrayRef kernel_size,
                                           at::IntArrayRef stride, at::IntArrayRef padding,
                                           at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                                           at::IntArrayRef blur_padding,
                                           std::string_view padding_mode, bool relu,
                                           bool channels_last, bool need_codes) {
  const Arguments a{kernel_size,  stride,       padding, taps_h,       taps_w,
                    blur_padding, padding_mode, relu,    channels_last};
  at::Tensor primal = x;
  const at::Tensor tangent = split_dual(primal);
  auto [y, codes] = record_forward(primal, a, need_codes || tangent.defined());
  if (tangent.defined()) y = make_dual(y, call_apply(tangent, codes, a));
  return {y, codes};
}

at::Tensor backward(const at::Tensor& dy, const at::Tensor& codes, c10::SymIntArrayRef input_size,
                    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                    at::ArrayRef<double> taps_h, at::ArrayRef<double> taps_w,
                    at::IntArrayRef blur_padding, std::string_view padding_mode, bool relu,
                    bool channels_last) {
  const Arguments a{kernel_size,  stride,       padding, taps_h,       taps_w,
                    blur_padding, padding_mode, relu,    channels_last};
  at::Tensor primal = dy;
  const at::Tensor tangent = split_dual(primal);
  const at::Tensor dx = record_backward(primal, codes, input_size, a);
  return tangent.defined() ? make_dual(dx, call_backward(tangent, codes, input_size, a)) : dx;
}

at::Tensor apply(const at::Tensor& x, const at::Tensor& codes, at::IntArrayRef kernel_size,
                 at::IntArrayRef stride, at::IntArrayRef padding, at::ArrayRef<double> taps_h,
                 at::ArrayRef<double> taps_w, at::IntArrayRef blur_padding,
                 std::string_view padding_mode, bool relu, bool channels_last) {
  const Arguments a{kernel_size,  stride,       padding, taps_h,       taps_w,
                    blur_padding, padding_mode, relu,    channels_last};
  at::Tensor primal = x;
  const at::Tensor tangent = split_dual(primal);
  const at::Tensor y = record_apply(primal, codes, a);
  return tangent.defined() ? make_dual(y, call_apply(tangent, codes, a)) : y;
}

TORCH_LIBRARY_IMPL(fastblur, Autograd, m) {
  m.impl("max_blur_pool_forward", TORCH_FN(forward));
  m.impl("max_blur_pool_backward", TORCH_FN(backward));
  m.impl("max_blur_pool_apply", TORCH_FN(apply));
}

}  // namespace
}  // namespace fastblur
