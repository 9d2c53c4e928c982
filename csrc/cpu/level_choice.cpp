#include "level_choice.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "specialisation.h"

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

std::string specialisation(int pool_h, int pool_w, int taps_h, int taps_w, int64_t stride_w,
                           bool channels_last) {
  const bool pool = specialised_pool(pool_h, pool_w) != 0;
  const bool rows = RowCounts::known(taps_h) != 0;
  const bool columns = TapCounts::known(taps_w) != 0 && (stride_w <= 2 || channels_last);
  if (pool && rows && columns) return "specialised";
  std::string generic;
  for (const auto& [known, name] : {std::pair{pool, "max"}, {rows, "rows"}, {columns, "columns"}})
    if (!known) generic += (generic.empty() ? "generic in its " : ", ") + std::string(name);
  return generic;
}

void set_level(const std::string& name) { current().store(&find(name)); }

}  // namespace fastblur::cpu
