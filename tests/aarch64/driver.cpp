// Runs cases on the kernels of this program's own processor, as program.py sends them: reads
// requests from stdin, and writes results to stdout.
#include <cstdio>
#include <stdexcept>

#include "../kernels/drivers.h"
#include "cpu/backend.h"
#include "cpu/codes/layout.h"
#include "cpu/targets/dispatch.h"

namespace {

using namespace fastblur;
using namespace fastblur::cpu;

// As program.py packs it. x and dy follow.
struct Request {
  char target[16], mode[16];
  int64_t type, shares, sizes[kSizes];
  double taps[2 * kMaxTaps];
};

constexpr size_t kMargin = 256;  // beside each result, as in drivers.py

using Bytes = std::vector<uint8_t>;

void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the request ends early");
}

void write(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }

template <class T>
void answer(const Kernels<T>& kernels, const Params& p, int64_t shares) {
  const size_t x_bytes = size_t(p.batch * p.channels * p.h.size * p.w.size) * sizeof(T);
  const size_t y_bytes = size_t(p.batch * p.channels * p.h.out() * p.w.out()) * sizeof(T);
  const int64_t code_bytes = p.batch * code_bytes_per_image(p);
  Bytes x(x_bytes), dy(y_bytes);
  read(x.data(), x_bytes), read(dy.data(), y_bytes);
  Bytes results[] = {Bytes(y_bytes + 2 * kMargin, 0xa5), Bytes(y_bytes + 2 * kMargin, 0xa5),
                     Bytes(y_bytes + 2 * kMargin, 0xa5),
                     Bytes(size_t(code_bytes) + 2 * kMargin, 0xa5),
                     Bytes(x_bytes + 2 * kMargin, 0xa5)};
  const auto at = [&](int i) { return reinterpret_cast<T*>(results[i].data() + kMargin); };
  run_all(kernels, p, shares, reinterpret_cast<const T*>(x.data()),
          reinterpret_cast<const T*>(dy.data()), at(0), at(1), at(2), results[3].data() + kMargin,
          at(4));
  write(&code_bytes, sizeof code_bytes);
  for (const Bytes& result : results) write(result.data(), result.size());
  std::fflush(stdout);
}

void serve() {
  Request request;
  while (std::fread(&request, sizeof request, 1, stdin) == 1) {
    set_target(request.target);
    const Params p = params(request.sizes, request.taps, request.mode);
    switch (Type(request.type)) {
      case Type::f32: answer(target().f32, p, request.shares); break;
      case Type::f64: answer(target().f64, p, request.shares); break;
      case Type::f16: answer(target().f16, p, request.shares); break;
      case Type::bf16: answer(target().bf16, p, request.shares); break;
    }
  }
}

}  // namespace

// With an argument: prints the targets, best first.
int main(int arguments, char**) try {
  if (arguments > 1)
    for (const std::string& name : usable_targets()) std::puts(name.c_str());
  else serve();
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
