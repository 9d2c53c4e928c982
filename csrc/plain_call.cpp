#include "plain_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "call_operators.h"

namespace fastblur {
namespace {

// Whether none of these is at work: autocast, a transform of torch.func, a trace, a mode of
// Python's. Inference mode may be: it switches autograd off, and that is all.
bool nothing_around() {
  auto included = c10::default_included_set, excluded = c10::default_excluded_set;
  if (c10::InferenceMode::is_enabled()) {
    included = included.remove(c10::DispatchKey::ADInplaceOrView);
    excluded = excluded | c10::autograd_dispatch_keyset;
  }
  const auto tls = c10::impl::tls_local_dispatch_key_set();
  return tls.included_ == included && tls.excluded_ == excluded &&
         !at::impl::torch_function_mode_enabled();
}

// Whether a tensor is memory on its device and perhaps has a gradient, but is nothing else: not
// sparse, quantised, mapped, a view that is negated ...
bool is_memory(const at::Tensor& x) {
  const auto backend = x.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  const auto not_of_memory =
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset;
  return x.key_set() - not_of_memory == c10::DispatchKeySet(backend);
}

}  // namespace

std::optional<at::Tensor> PlainCall::operator()(const at::Tensor& x) const {
  if (x.device() != device_ || !is_memory(x) || !nothing_around()) return {};
  Arguments a = geometry_.arguments();
  a.channels_last = !x.is_contiguous();
  if (x.dim() != 4 || (a.channels_last && !x.is_contiguous(at::MemoryFormat::ChannelsLast)))
    return {};
  try {
    check_tensor(x, "input");
    make_params(x.sizes(), a);
  } catch (const c10::Error&) {
    return {};
  }
  return std::get<0>(call_forward(x, a, x.requires_grad() && c10::GradMode::is_enabled()));
}

}  // namespace fastblur
