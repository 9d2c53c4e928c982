// Chooses the target whose kernels run: at first use the best one that the processor supports. The
// environment variable FASTBLUR_CPU_TARGET and set_target override the choice.
#pragma once

#include <string>
#include <vector>

#include "cpu/targets/target.h"

namespace fastblur::cpu {

// The targets that this machine can run, best first.
std::vector<std::string> usable_targets();

// The target in use: the best usable one, or the one that FASTBLUR_CPU_TARGET names.
const Target& target();

// Uses the named target from now on; throws std::invalid_argument if it is not usable here.
void set_target(const std::string& name);

}  // namespace fastblur::cpu
