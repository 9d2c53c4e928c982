#include "level_choice.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace fastblur::cpu {
namespace {

constexpr const Level* kLevels[] = {
#if defined(__x86_64__)
    &avx512::level,
    &avx2::level,
#endif
    &generic::level,
};

const Level& find(const std::string& name) {
  std::string usable;
  for (const Level* level : kLevels) {
    if (!level->supported()) continue;
    if (name == level->name) return *level;
    usable += usable.empty() ? "'" : ", '";
    usable += std::string(level->name) + "'";
  }
  throw std::invalid_argument("the CPU level (FASTBLUR_CPU_LEVEL) must be one of " + usable +
                              " on this machine, got '" + name + "'");
}

std::atomic<const Level*>& current() {
  static std::atomic<const Level*> chosen{[] {
    const char* asked = std::getenv("FASTBLUR_CPU_LEVEL");
    return &find(asked && *asked ? asked : usable_levels().front());
  }()};
  return chosen;
}

}  // namespace

std::vector<std::string> usable_levels() {
  std::vector<std::string> names;
  for (const Level* level : kLevels)
    if (level->supported()) names.emplace_back(level->name);
  return names;
}

const Level& level() { return *current().load(std::memory_order_relaxed); }

void set_level(const std::string& name) { current().store(&find(name)); }

}  // namespace fastblur::cpu
