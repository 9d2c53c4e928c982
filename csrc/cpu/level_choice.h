// Which instruction-set level the CPU kernels run at.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace fastblur::cpu {

// The levels this machine can run, best first.
std::vector<std::string> usable_levels();

// The level in use: the best usable one, or what FASTBLUR_CPU_LEVEL names.
const Level& level();

// Uses the named level from now on; throws std::invalid_argument if it is not usable here.
void set_level(const std::string& name);

}  // namespace fastblur::cpu
