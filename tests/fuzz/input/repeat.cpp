// Runs cases without libFuzzer: those in files, or changed and random ones.
//
//   repeat FILE...                    runs each file once
//   repeat --runs N SEED LAST [FILE...]   makes N inputs; keeps the one that runs in the file LAST
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "oracle/report.h"

namespace {

using Input = std::vector<uint8_t>;

Input read(const std::string& file) {  // empty if it is gone: libFuzzer replaces files
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Half of them are files with some bytes changed, the others are random.
Input make(fuzz::Random& random, const std::vector<Input>& files) {
  Input input;
  if (!files.empty() && random.below(2)) {
    input = files[size_t(random.below(int64_t(files.size())))];
    for (int64_t n = 1 + random.below(6); n > 0 && !input.empty(); --n)
      input[size_t(random.below(int64_t(input.size())))] = uint8_t(random.bits() >> 20);
  } else {
    input.resize(size_t(40 + random.below(60)));
    for (uint8_t& byte : input) byte = uint8_t(random.bits() >> 20);
  }
  return input;
}

}  // namespace

int main(int n, char** arguments) {
  std::vector<std::string> rest(arguments + 1, arguments + n);
  if (rest.size() < 4 || rest[0] != "--runs") {
    for (const std::string& file : rest) {
      const Input input = read(file);
      LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    return 0;
  }
  const long runs = std::stol(rest[1]);
  fuzz::Random random(std::stoull(rest[2]));
  FILE* const last = std::fopen(rest[3].c_str(), "wb");
  if (!last) return 2;
  std::vector<Input> files;
  for (size_t i = 4; i < rest.size(); ++i) files.push_back(read(rest[i]));
  for (long i = 0; i < runs; ++i) {
    const Input input = make(random, files);
    std::rewind(last);
    std::fwrite(input.data(), 1, input.size(), last);
    std::fflush(last);
    if (ftruncate(fileno(last), off_t(input.size()))) return 2;
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::remove(rest[3].c_str());  // nothing was found
  fuzz::count("runs", double(runs));
}
