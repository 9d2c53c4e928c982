// The Python module fastblur._C: the raw operators, without autograd, and facts about the build.
#include <ATen/core/LegacyTypeDispatch.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include "call_operators.h"
#include "cpu/codes.h"
#include "cpu/level_choice.h"
#include "cpu/specialisation.h"
#include "plain_call.h"

#if defined(FASTBLUR_CUDA_ARCHS)  // what setup.py built for
#include "cuda/build.h"
#endif

namespace py = pybind11;

namespace fastblur {
namespace {

using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;

#define FASTBLUR_RAW_PARAMETERS                                                            \
  const Ints &kernel_size, const Ints &stride, const Ints &padding, const Doubles &taps_h, \
      const Doubles &taps_w, const Ints &blur_padding, const std::string &padding_mode, bool relu
#define FASTBLUR_RAW_ARGUMENTS \
  kernel_size, stride, padding, taps_h, taps_w, blur_padding, padding_mode, relu, channels_last
#define FASTBLUR_RAW_NAMES                                                             \
  py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("taps_h"),    \
      py::arg("taps_w"), py::arg("blur_padding"), py::arg("padding_mode") = "reflect", \
                                                  py::arg("relu") = false,             \
                                                  py::arg("channels_last") = false

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x, FASTBLUR_RAW_PARAMETERS,
                                           bool channels_last, bool need_codes) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, {FASTBLUR_RAW_ARGUMENTS}, need_codes);
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& codes, const Ints& input_size,
                    FASTBLUR_RAW_PARAMETERS, bool channels_last) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const auto size = c10::fromIntArrayRefSlow(input_size);
  return call_backward(grad_output, codes, size, {FASTBLUR_RAW_ARGUMENTS});
}

at::Tensor apply(const at::Tensor& x, const at::Tensor& codes, FASTBLUR_RAW_PARAMETERS,
                 bool channels_last) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return call_apply(x, codes, {FASTBLUR_RAW_ARGUMENTS});
}

Params params_of(const Ints& input_size, FASTBLUR_RAW_PARAMETERS, bool channels_last) {
  return make_params(input_size, {FASTBLUR_RAW_ARGUMENTS});
}

PlainCall plain_call(FASTBLUR_RAW_PARAMETERS, const at::Device& device) {
  constexpr bool channels_last = false;  // the input will tell
  return PlainCall({FASTBLUR_RAW_ARGUMENTS}, device);
}

// y, or None; see plain_call.h.
py::object call_plainly(const PlainCall& call, py::handle x) {
  if (!THPVariable_CheckExact(x.ptr())) return py::none();
  std::optional<at::Tensor> y;
  {
    py::gil_scoped_release no_gil;
    y = call(THPVariable_Unpack(x.ptr()));
  }
  return y ? py::cast(*std::move(y)) : py::none();
}

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
#if defined(__VERSION__)
  info["compiler"] = __VERSION__;
#endif
  info["cxx"] = int64_t(__cplusplus);
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  info["cuda"] = py::none();
  info["cuda_archs"] = std::vector<std::string>();
#if defined(FASTBLUR_CUDA_ARCHS)
  info["cuda"] =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  info["cuda_archs"] = cuda::built_archs();
#endif
  info["cpu_levels"] = cpu::usable_levels();
  return info;
}

}  // namespace
}  // namespace fastblur

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace fastblur;
  m.doc() = "Compiled kernels of fastblur: raw operators without autograd, and facts of the build.";
  const auto free_gil = py::call_guard<py::gil_scoped_release>();
  m.def("forward", &forward, py::arg("x"), FASTBLUR_RAW_NAMES, py::arg("need_codes") = true,
        free_gil,
        "x [N, C, H, W] -> (y [N, C, H_out, W_out], codes); codes is empty without need_codes.");
  m.def("backward", &backward, py::arg("grad_output"), py::arg("codes"), py::arg("input_size"),
        FASTBLUR_RAW_NAMES, free_gil, "Gradient of the input, from that of y and forward's codes.");
  m.def("apply", &apply, py::arg("x"), py::arg("codes"), FASTBLUR_RAW_NAMES, free_gil,
        "The forward map, linear in x, with the winners given by codes instead of chosen.");
  m.def(
      "output_size",
      [](const Ints& input_size, FASTBLUR_RAW_PARAMETERS, bool channels_last) {
        const auto size = output_size(params_of(input_size, FASTBLUR_RAW_ARGUMENTS));
        return Ints(size.begin(), size.end());
      },
      py::arg("input_size"), FASTBLUR_RAW_NAMES, "Sizes of y for the four sizes of x.");
  m.def(
      "code_bytes",
      [](const Ints& input_size, FASTBLUR_RAW_PARAMETERS, bool channels_last) {
        const Params p = params_of(input_size, FASTBLUR_RAW_ARGUMENTS);
        return p.batch * cpu::code_bytes_per_image(p);
      },
      py::arg("input_size"), FASTBLUR_RAW_NAMES, "Bytes that the CPU backend keeps for backward.");
  m.def("specialisation", &cpu::specialisation, py::arg("pool_h"), py::arg("pool_w"),
        py::arg("taps_h"), py::arg("taps_w"), py::arg("stride_w"), py::arg("channels_last"),
        "Which sizes of a call the CPU kernels know at compile time, in words.");
#if defined(FASTBLUR_CUDA_ARCHS)
  m.def(
      "cuda_code_bytes",
      [](const Ints& input_size, FASTBLUR_RAW_PARAMETERS, bool channels_last,
         at::ScalarType dtype) {
        const Params p = params_of(input_size, FASTBLUR_RAW_ARGUMENTS);
        return p.batch * cuda::code_words_per_image(p, cuda::type_of(dtype)) * 4;
      },
      py::arg("input_size"), FASTBLUR_RAW_NAMES, py::arg("dtype") = at::kFloat,
      "Bytes that the CUDA backend keeps for backward.");
  m.def(
      "cuda_specialisation",
      [](const Ints& input_size, FASTBLUR_RAW_PARAMETERS, bool channels_last,
         at::ScalarType dtype) {
        const Params p = params_of(input_size, FASTBLUR_RAW_ARGUMENTS);
        return cuda::specialisation(p, cuda::type_of(dtype));
      },
      py::arg("input_size"), FASTBLUR_RAW_NAMES, py::arg("dtype") = at::kFloat,
      "Which kernels of the CUDA backend run a call, in words.");
#endif
  py::class_<PlainCall>(m, "PlainCall",
                        "(x) -> y on a plain tensor of a device, differentiable; or None, where "
                        "anything but autograd is at work, or the input does not fit.")
      .def(py::init(&plain_call), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
           py::arg("taps_h"), py::arg("taps_w"), py::arg("blur_padding"), py::arg("padding_mode"),
           py::arg("relu"), py::arg("device"))
      .def("__call__", &call_plainly, py::arg("x"));
  m.def("build_info", &build_info, "What this extension was built with, and for.");
  m.def("cpu_level", [] { return cpu::level().name; }, "The instruction-set level in use.");
  m.def("set_cpu_level", &cpu::set_level, py::arg("name"),
        "Uses another usable level from now on.");
}
