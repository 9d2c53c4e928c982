// What a finding looks like, and the tally of a process.
#pragma once

#include <cstdint>
#include <string>

#include "input/case.h"

namespace fuzz {

// Prints the finding and the case, and aborts: libFuzzer then keeps the input.
[[noreturn]] void fail(const Case& c, const std::string& what);

// Counts of one process, by name. They are written as JSON to the file that FUZZ_TALLY names when
// the process ends well. Names that begin with "largest" keep the largest value.
void count(const std::string& name, double by = 1);
int64_t* counter(const char* name);  // the same for whole numbers, without a search

}  // namespace fuzz

// One run: the entry of libFuzzer and of repeat.cpp. cpu.cpp and cuda.cpp define it.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
