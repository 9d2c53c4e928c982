// The private Python module fastblur._C: the kernels on raw addresses, and facts about the build.
// Python checks the tensors; this module checks only sizes and arguments. The submodules cpu and
// cuda each have a class Call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "cpu/backend.h"
#include "cpu/codes/layout.h"
#include "cpu/targets/dispatch.h"
#include "plan.h"

#if defined(FASTBLUR_CUDA_ARCHS)  // set by setup.py, for a build with CUDA
#include "cuda/backend.h"
#endif

namespace py = pybind11;

namespace fastblur {
namespace {

using FreeGil = py::call_guard<py::gil_scoped_release>;
using Address = uintptr_t;

Type type_of(int dtype) {
  if (dtype < 0 || dtype > int(Type::bf16))
    throw std::invalid_argument("dtype must be 0 to 3, got " + std::to_string(dtype));
  return Type(dtype);
}

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_plan(py::module_& m) {
  py::class_<Plan>(m, "Plan", "A checked geometry.", py::module_local())
      .def(py::init<const std::vector<int64_t>&, const std::vector<int64_t>&,
                    const std::vector<int64_t>&, const std::vector<double>&,
                    const std::vector<double>&, const std::vector<int64_t>&, const std::string&,
                    bool>(),
           py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("taps_h"),
           py::arg("taps_w"), py::arg("blur_padding"), py::arg("padding_mode"), py::arg("relu"))
      .def_property_readonly(
          "linear", [](const Plan& plan) { return plan.geometry().linear(); },
          "Whether there is neither max nor ReLU, so that y is linear in x and there are no codes.")
      .def(
          "output_size",
          [](const Plan& plan, int64_t h, int64_t w) {
            const Params p = plan.params({1, 1, h, w, false});
            return std::tuple{p.h.out(), p.w.out()};
          },
          py::arg("h"), py::arg("w"), "(h, w) of x -> (h_out, w_out) of y.");
}

// Binds a class with the constructor Call(plan, dtype, channels_last, n, c, h, w).
template <class Call>
py::class_<Call> bind_call(py::module_& m) {
  return py::class_<Call>(m, "Call", "A checked call: geometry, dtype, layout and the size of x.",
                          py::module_local())
      .def(py::init([](const Plan& plan, int dtype, bool channels_last, int64_t n, int64_t c,
                       int64_t h, int64_t w) {
             return Call(plan.params({n, c, h, w, channels_last}), type_of(dtype));
           }),
           py::arg("plan"), py::arg("dtype"), py::arg("channels_last"), py::arg("n"), py::arg("c"),
           py::arg("h"), py::arg("w"))
      .def_property_readonly("sizes", &Call::sizes);
}

struct CpuCall : cpu::Call {
  using cpu::Call::Call;
  // (h_out, w_out, bytes of codes per image)
  auto sizes() const {
    return std::tuple{p().h.out(), p().w.out(), cpu::code_bytes_per_image(p())};
  }
};

void bind_cpu(py::module_ m) {
  bind_call<CpuCall>(m)
      .def(
          "forward",
          [](const CpuCall& call, Address x, Address y, Address codes, int threads) {
            return call.forward(pointer(x), pointer(y), pointer<uint8_t>(codes), threads);
          },
          FreeGil(),
          "(x, y, codes, threads) -> whether one pass sufficed. Codes at address 0 are not "
          "written.")
      .def(
          "backward",
          [](const CpuCall& call, Address dy, Address codes, Address dx, int threads) {
            return call.backward(pointer(dy), pointer<uint8_t>(codes), pointer(dx), threads);
          },
          FreeGil(), "(dy, codes, dx, threads) -> whether one pass sufficed.")
      .def(
          "apply",
          [](const CpuCall& call, Address x, Address codes, Address y, int threads) {
            call.apply(pointer(x), pointer<uint8_t>(codes), pointer(y), threads);
          },
          FreeGil(), "(x, codes, y, threads): forward with the winners that the codes name.")
      .def("specialisation", &cpu::Call::specialisation,
           "Describes the kernels that run the call.");
  m.def("targets", &cpu::usable_targets,
        "The instruction-set targets of this machine, best first.");
  m.def("target", [] { return cpu::target().name; }, "The target in use.");
  m.def("set_target", &cpu::set_target, py::arg("name"), "Uses another target from now on.");
}

#if defined(FASTBLUR_CUDA_ARCHS)
struct CudaCall {
  CudaCall(const Params& params, Type kind) : p(params), type(kind) {}
  // (h_out, w_out, words of codes per image, the words that forward needs if no codes are kept)
  auto sizes() const {
    const int64_t words = cuda::code_words_per_image(p, type);
    return std::tuple{p.h.out(), p.w.out(), words, cuda::forward_needs_codes(p, type) ? words : 0};
  }
  Params p;
  Type type;
};

void bind_cuda(py::module_ m) {
  bind_call<CudaCall>(m)
      .def(
          "forward",
          [](const CudaCall& call, Address x, Address y, Address codes, int device,
             Address stream) {
            cuda::forward_on({device, stream}, call.p, call.type, pointer(x), pointer(y),
                             pointer<uint32_t>(codes));
          },
          FreeGil(), "(x, y, codes, device, stream). Codes at address 0 are not written.")
      .def(
          "backward",
          [](const CudaCall& call, Address dy, Address codes, Address dx, int device,
             Address stream) {
            cuda::backward_on({device, stream}, call.p, call.type, pointer(dy),
                              pointer<uint32_t>(codes), pointer(dx));
          },
          FreeGil(), "(dy, codes, dx, device, stream)")
      .def(
          "apply",
          [](const CudaCall& call, Address x, Address codes, Address y, int device,
             Address stream) {
            cuda::apply_on({device, stream}, call.p, call.type, pointer(x),
                           pointer<uint32_t>(codes), pointer(y));
          },
          FreeGil(), "(x, codes, y, device, stream): forward with the winners that the codes name.")
      .def(
          "specialisation",
          [](const CudaCall& call) { return cuda::specialisation(call.p, call.type); },
          "Describes the kernels that run the call.");
  m.def("problem", &cuda::problem, "The reason why no call can run on this machine, or None.");
}
#endif

py::dict build_info() {
  py::dict info;
#if defined(__VERSION__)
  info["compiler"] = __VERSION__;
#endif
  info["cxx"] = int64_t(__cplusplus);
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
#if defined(FASTBLUR_CUDA_ARCHS)
  info["cuda"] = cuda::runtime_version();
  info["cuda_archs"] = cuda::built_archs();
#else
  info["cuda"] = py::none();
  info["cuda_archs"] = std::vector<std::string>();
#endif
  return info;
}

}  // namespace
}  // namespace fastblur

PYBIND11_MODULE(_C, m) {
  using namespace fastblur;
  m.doc() = "Compiled kernels of fastblur on raw addresses, and facts of the build.";
  bind_plan(m);
  bind_cpu(m.def_submodule("cpu", "The CPU backend."));
#if defined(FASTBLUR_CUDA_ARCHS)
  bind_cuda(m.def_submodule("cuda", "The CUDA backend."));
#endif
  m.def("build_info", &build_info, "Compiler, CUDA version and GPU architectures of this build.");
}
