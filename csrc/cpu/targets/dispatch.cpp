// The list of targets, best first, and the one in use.
#include "cpu/targets/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastblur::cpu {

namespace generic {
extern const Target target;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Target target;
}
namespace avx512 {
extern const Target target;
}
#elif defined(__aarch64__)
namespace neon {
extern const Target target;
}
#endif

namespace {

constexpr const Target* kTargets[] = {
#if defined(__x86_64__)
    &avx512::target,
    &avx2::target,
#elif defined(__aarch64__)
    &neon::target,
#endif
    &generic::target,
};

const Target& find(const std::string& name) {
  std::string usable;
  for (const Target* target : kTargets) {
    if (!target->supported()) continue;
    if (name == target->name) return *target;
    usable += usable.empty() ? "'" : ", '";
    usable += std::string(target->name) + "'";
  }
  throw std::invalid_argument("the CPU target (FASTBLUR_CPU_TARGET) must be one of " + usable +
                              " on this machine, got '" + name + "'");
}

std::atomic<const Target*>& current() {
  static std::atomic<const Target*> chosen{[] {
    const char* asked = std::getenv("FASTBLUR_CPU_TARGET");
    return &find(asked && *asked ? asked : usable_targets().front());
  }()};
  return chosen;
}

}  // namespace

std::vector<std::string> usable_targets() {
  std::vector<std::string> names;
  for (const Target* target : kTargets)
    if (target->supported()) names.emplace_back(target->name);
  return names;
}

const Target& target() { return *current().load(std::memory_order_relaxed); }

void set_target(const std::string& name) { current().store(&find(name)); }

}  // namespace fastblur::cpu
