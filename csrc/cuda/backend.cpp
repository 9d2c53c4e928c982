// The entry of the CUDA backend (see backend.h): makes the device current, launches on the given
// stream, and turns CUDA's errors into exceptions.
#include "cuda/backend.h"

#include <array>
#include <atomic>
#include <sstream>
#include <stdexcept>

namespace fastblur::cuda {
namespace {

std::string describe(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ", " + cudaGetErrorString(error);
}

void check(cudaError_t error, const char* what, int device) {
  if (error == cudaSuccess) return;
  throw std::runtime_error("fastblur cannot " + std::string(what) + " CUDA device " +
                           std::to_string(device) + ": " + describe(error));
}

// Makes a device current, and restores the previous one at the end of the scope.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "leave the current device for", device);
    if (before_ == device) return;
    check(cudaSetDevice(device), "use", device);
    changed_ = true;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "read the attributes of", device);
  return value;
}

// The number of multiprocessors, read once per device: a query in every call would take too long
// for small calls.
int multiprocessors(int device) {
  static std::array<std::atomic<int>, 64> known{};
  if (size_t(device) >= known.size()) return attribute(cudaDevAttrMultiProcessorCount, device);
  auto& count = known[size_t(device)];
  if (count.load(std::memory_order_relaxed) == 0)
    count.store(attribute(cudaDevAttrMultiProcessorCount, device), std::memory_order_relaxed);
  return count.load(std::memory_order_relaxed);
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::ostream& operator<<(std::ostream& out, const std::vector<std::string>& values) {
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  return out << ']';
}

[[noreturn]] void fail(cudaError_t error, const char* name, const Params& p, Type type,
                       int device) {
  std::ostringstream text;
  if (error == cudaErrorNoKernelImageForDevice) {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
    const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
    text << "fastblur was built for " << built_archs() << " and has no kernels for CUDA device "
         << device << ", of compute capability " << major << '.' << minor
         << "; rebuild it with TORCH_CUDA_ARCH_LIST=" << major << '.' << minor;
  } else {
    text << "fastblur " << name << " (" << specialisation(p, type)
         << ") could not start: " << describe(error);
  }
  throw std::runtime_error(text.str());
}

// Calls f(queue), which launches kernels, with the device current. Throws if f returns an error.
template <class F>
void launch_on(Place place, const char* name, const Params& p, Type type, F f) {
  const CurrentDevice current(place.device);
  const auto stream = reinterpret_cast<cudaStream_t>(place.stream);
  const cudaError_t error = f(Queue{stream, multiprocessors(place.device)});
  if (error != cudaSuccess) fail(error, name, p, type, place.device);
}

}  // namespace

void forward_on(Place place, const Params& p, Type type, const void* x, void* y, uint32_t* codes) {
  if (codes == nullptr && forward_needs_codes(p, type) && p.batch > 0)
    throw std::invalid_argument("forward needs room for codes here, got none");
  launch_on(place, "forward", p, type,
            [&](const Queue& queue) { return forward(p, type, x, y, codes, queue); });
}

void backward_on(Place place, const Params& p, Type type, const void* dy, const uint32_t* codes,
                 void* dx) {
  launch_on(place, "backward", p, type,
            [&](const Queue& queue) { return backward(p, type, dy, codes, dx, queue); });
}

void apply_on(Place place, const Params& p, Type type, const void* x, const uint32_t* codes,
              void* y) {
  launch_on(place, "apply", p, type,
            [&](const Queue& queue) { return apply(p, type, x, codes, y, queue); });
}

std::optional<std::string> problem() {
  int driver = 0, devices = 0;
  const std::string needed = version_text(CUDART_VERSION / 1000 * 1000);
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "there is no CUDA driver (fastblur needs one for CUDA " + needed + " or later)";
  // A driver runs code that was built with any release of its own or of an earlier major version.
  if (driver < CUDART_VERSION / 1000 * 1000)
    return "the driver is for CUDA " + version_text(driver) + ", fastblur needs one for CUDA " +
           needed + " or later";
  const cudaError_t error = cudaGetDeviceCount(&devices);
  cudaGetLastError();  // clears the error, so that torch does not find it
  if (error != cudaSuccess) return "no CUDA device can be used: " + describe(error);
  return {};
}

std::string runtime_version() { return version_text(CUDART_VERSION); }

std::vector<std::string> built_archs() {
#define FASTBLUR_TEXT_OF(...) #__VA_ARGS__
#define FASTBLUR_TEXT(...) FASTBLUR_TEXT_OF(__VA_ARGS__)
  std::istringstream text(FASTBLUR_TEXT(FASTBLUR_CUDA_ARCHS));
#undef FASTBLUR_TEXT
#undef FASTBLUR_TEXT_OF
  std::vector<std::string> archs;
  for (std::string arch; std::getline(text, arch, ',');) archs.push_back(arch);
  return archs;
}

}  // namespace fastblur::cuda
