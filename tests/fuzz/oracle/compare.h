// What the runs of the CPU's and of CUDA's kernels share: what is refused, and what is right.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "oracle/oracle.h"

namespace fuzz {

using Bytes = std::vector<uint8_t>;

const char* name_of(Type type);

// What Plan makes of a case, or nothing if Plan refuses it, as it should, or it is too large to
// run. Counts both.
std::optional<Params> plan(const Case& c);

// Fails unless the result is right.
void check(const Case& c, const std::string& what, const Expected& expected, const Bytes& got);

// The first element whose bits differ, or -1. All NaNs are alike.
int64_t first_difference(Type type, const Bytes& a, const Bytes& b);

// Fails if any does.
void require_same(const Case& c, const std::string& what, const Bytes& a, const Bytes& b);

// The same, but zeros of both signs are alike.
void require_same_but_zeros(const Case& c, const std::string& what, const Bytes& a, const Bytes& b);

// Counts a case that ran by its type, layout, operation and the kernels that served it.
void count_run(const Case& c, const Params& p, const std::string& kernels);

}  // namespace fuzz
