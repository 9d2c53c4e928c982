// How libFuzzer changes inputs: as it does anyway, or into wholly random ones. Coverage leads to
// the branches of the kernels; that an argument is at its limit is no branch, and takes luck.
#include "input/case.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  fuzz::Random random(seed);
  if (random.below(4)) return LLVMFuzzerMutate(data, size, most);
  for (size_t i = 0; i < most; ++i) data[i] = uint8_t(random.bits() >> 20);
  return most;
}
