#include "oracle/report.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>

namespace fuzz {
namespace {

struct Tally {
  std::map<std::string, double> numbers;
  std::map<std::string, int64_t*> counters;
  std::deque<int64_t> memory;

  void write() {
    const char* const file = std::getenv("FUZZ_TALLY");
    FILE* const out = file ? std::fopen(file, "w") : nullptr;
    if (!out) return;
    for (const auto& [name, at] : counters) numbers[name] = double(*at);
    const char* between = "{";
    for (const auto& [name, value] : numbers) {
      std::fprintf(out, "%s\n\"%s\": %.17g", between, name.c_str(), value);
      between = ",";
    }
    std::fprintf(out, "%s\n}\n", numbers.empty() ? "{" : "");
    std::fclose(out);
  }
};

Tally& tally() {
  static Tally* const all = [] {
    auto* const made = new Tally;
    std::atexit([] { tally().write(); });
    return made;
  }();
  return *all;
}

}  // namespace

void fail(const Case& c, const std::string& what) {
  std::fprintf(stderr, "fuzz: %s\nfuzz: in %s\n", what.c_str(), describe(c).c_str());
  std::fflush(nullptr);
  std::abort();
}

void count(const std::string& name, double by) {
  double& number = tally().numbers[name];
  if (name.rfind("largest", 0) == 0) number = by > number ? by : number;
  else number += by;
}

int64_t* counter(const char* name) {
  auto& counters = tally().counters;
  if (!counters.count(name)) counters[name] = &tally().memory.emplace_back(0);
  return counters[name];
}

}  // namespace fuzz
