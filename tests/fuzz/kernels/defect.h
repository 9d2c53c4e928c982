// Which seeded defect is in force; see seeded.py.
#pragma once

#include <cstdlib>

namespace fuzz {

inline const int defect = std::getenv("FUZZ_DEFECT") ? std::atoi(std::getenv("FUZZ_DEFECT")) : -1;

}  // namespace fuzz
