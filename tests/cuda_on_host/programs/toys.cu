// toys NAME: a small kernel that is right, or violates one rule that the runner must enforce.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/runtime.h"
#include "executor.h"
#include "tensor.h"

namespace {

using namespace fastblur::cuda;
using cuda_on_host::Role;
using cuda_on_host::Tensor;

enum class Defect { none, no_barrier, no_warp_barrier };

// The sum of each block's 256 numbers: within warps by shuffles, between them in shared memory.
template <Defect kDefect>
__global__ void sum(const float* x, float* y) {
  __shared__ float parts[8];
  const unsigned t = threadIdx.x;
  float v = load(x + blockIdx.x * 256 + t);
  for (int by = 16; by; by /= 2) v += __shfl_down_sync(~0u, v, unsigned(by));
  if (t % 32 == 0) parts[t / 32] = v;
  if (kDefect != Defect::no_barrier) __syncthreads();
  if (t == 0) {
    float all = 0;
    for (float part : parts) all += part;
    store(y + blockIdx.x, all);
  }
}

// Each lane takes its neighbour's number from shared memory.
template <Defect kDefect>
__global__ void turn(const float* x, float* y) {
  __shared__ float row[32];
  row[threadIdx.x] = load(x + threadIdx.x);
  if (kDefect != Defect::no_warp_barrier) __syncwarp();
  else __shfl_sync(~0u, 0, 0);  // brings the lanes together, and does not order memory
  store(y + threadIdx.x, row[(threadIdx.x + 1) % 32]);
}

__global__ void misaligned(const float* x, float* y) {
  const float4 v = load(reinterpret_cast<const float4*>(x + threadIdx.x));
  store(y + threadIdx.x, v.x);
}

__global__ void beyond(const float* x, float* y, int n) {
  store(y + threadIdx.x, load(x + threadIdx.x + n));
}

__global__ void beyond_store(const float*, float* y, int n) {
  if (threadIdx.x == 0) y[n] = 1;  // a store that is not announced
}

__global__ void same_place(const float* x, float* y) {
  store(y + threadIdx.x / 2, load(x + threadIdx.x));
}

// Block 1 reads what block 0 writes; in the other order the write comes second.
__global__ void others_result(const float* x, float* y) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (blockIdx.x == 0) store(y + i, load(x + i));
  else store(y + i, load(y + i - blockDim.x));
}

__global__ void half_full(const float* x, float* y) {
  if (threadIdx.x < 100) store(y + threadIdx.x, load(x + threadIdx.x));
}

__global__ void write_to_input(const float* x, float*) { store(const_cast<float*>(x), 0.0f); }

template <int kWhich>
__global__ void divergent(const float* x, float* y) {
  const unsigned t = threadIdx.x;
  float v = load(x + t);
  if (kWhich == 0) {  // half of the block at another barrier
    if (t < 128) __syncthreads();
    else __syncthreads();
  } else if (kWhich == 1) {  // half of a warp at no barrier
    if (t % 32 < 16) __syncthreads();
    else v = __shfl_sync(~0u, v, 0);
  } else if (kWhich == 2) {  // gone before a barrier
    if (t >= 64) return;
    __syncthreads();
  } else if (kWhich == 3) {  // gone before a shuffle
    if (t % 32 == 31) return;
    v = __shfl_sync(~0u, v, 0);
  } else if (kWhich == 4) {  // the mask of a part of a warp
    if (t % 32 < 16) v = __shfl_sync(0xffffu, v, 0);
  } else {  // fewer rounds
    for (unsigned i = 0; i < t / 128 + 1; ++i) __syncthreads();
  }
  store(y + t, v);
}

// Whole warps may leave early, and 40 lanes are a warp and a quarter.
__global__ void early_warps(const float* x, float* y) {
  const unsigned t = threadIdx.x;
  if (t >= 32 && t < 64) return;
  const float v = __shfl_xor_sync(~0u, load(x + t), 1);
  const unsigned votes = __ballot_sync(~0u, v > 0);
  store(y + t, v + float(__popc(votes)) + float(__any_sync(~0u, v > 0)) +
                   float(__all_sync(~0u, v == v)) + __shfl_up_sync(~0u, v, 2, 8));
}

__global__ void poison(const float*, float* y) {
  __shared__ float unset[32];
  store(y + threadIdx.x, unset[threadIdx.x]);
  unset[threadIdx.x] = 1;  // must not be seen by the next block
}

__global__ void poison_dynamic(const float*, float* y) {
  float* const unset = static_cast<float*>(cuda_on_host::dynamic_shared());
  store(y + threadIdx.x, unset[threadIdx.x]);
  unset[threadIdx.x] = 1;
}

__global__ void beyond_dynamic(const float*, float* y) {
  float* const room = static_cast<float*>(cuda_on_host::dynamic_shared());
  store(y + threadIdx.x, room[32 + threadIdx.x]);
}

__global__ void overflow(const float*, float* y) {
  volatile int large = 0x7fffffff;
  store(y + threadIdx.x, float(large + int(blockDim.x)));
}

__global__ void recursion(const float* x, float* y, int depth) {
  volatile char room[4096];
  room[0] = char(depth);
  if (depth) recursion(x, y, depth - 1);
  room[1] = room[0];
}

bool bad_launches() {
  const auto refused = [](dim3 grid, dim3 block, size_t shared) {
    return cuda_on_host::launch_shared(poison, grid, block, shared, nullptr, nullptr, nullptr) ==
           cudaErrorInvalidConfiguration;
  };
  return refused(0, 32, 0) && refused(0x80000000u, 32, 0) && refused({1, 65536}, 32, 0) &&
         refused({1, 1, 65536}, 32, 0) && refused(1, 0, 0) && refused(1, 1025, 0) &&
         refused(1, {1, 1, 65}, 0) && refused(1, {32, 33}, 0) && refused(1, 32, (48 << 10) + 1);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "", order = argc > 2 ? argv[2] : "";
  cuda_on_host::Options options;
  if (order == "reverse") options.order = cuda_on_host::Order::reverse;
  if (order == "random") options.order = cuda_on_host::Order::random;
  options.trace = argc > 3 && !std::strcmp(argv[3], "trace");
  cuda_on_host::set_options(options);
  cuda_on_host::set_label("toy " + name);

  constexpr int kSize = 512;
  std::vector<float> numbers(kSize);
  for (int i = 0; i < kSize; ++i) numbers[size_t(i)] = float(i % 37) - 18;
  Tensor in("x", Role::input, kSize * 4, 0, reinterpret_cast<const char*>(numbers.data()));
  Tensor out("y", Role::output, kSize * 4, 0);
  const auto* x = static_cast<const float*>(in.data());
  auto* y = static_cast<float*>(out.data());
  const auto run = [&](auto kernel, unsigned grid, unsigned block, auto... more) {
    launch(kernel, grid, block, nullptr, x, y, more...);
  };
  if (name == "sum") run(sum<Defect::none>, 2, 256);
  else if (name == "no_barrier") run(sum<Defect::no_barrier>, 2, 256);
  else if (name == "turn") run(turn<Defect::none>, 1, 32);
  else if (name == "no_warp_barrier") run(turn<Defect::no_warp_barrier>, 1, 32);
  else if (name == "misaligned") run(misaligned, 1, 32);
  else if (name == "beyond") run(beyond, 1, 32, kSize - 31);
  else if (name == "beyond_store") run(beyond_store, 1, 32, kSize);
  else if (name == "same_place") run(same_place, 1, 32);
  else if (name == "others_result") run(others_result, 2, 32);
  else if (name == "half_full") run(half_full, 1, 128);
  else if (name == "write_to_input") run(write_to_input, 1, 32);
  else if (name == "two_barriers") run(divergent<0>, 1, 256);
  else if (name == "half_a_warp") run(divergent<1>, 1, 256);
  else if (name == "left_the_block") run(divergent<2>, 1, 256);
  else if (name == "left_the_warp") run(divergent<3>, 1, 256);
  else if (name == "part_of_a_mask") run(divergent<4>, 1, 256);
  else if (name == "fewer_rounds") run(divergent<5>, 1, 256);
  else if (name == "early_warps") run(early_warps, 1, 104);
  else if (name == "poison") run(poison, 2, 32);
  else if (name == "poison_dynamic")
    cuda_on_host::launch_shared(poison_dynamic, 2, 32, 128, nullptr, x, y);
  else if (name == "beyond_dynamic")
    cuda_on_host::launch_shared(beyond_dynamic, 1, 32, 128, nullptr, x, y);
  else if (name == "overflow") run(overflow, 1, 32);
  else if (name == "recursion") run(recursion, 1, 32, 1000);
  else if (name == "bad_launches") return bad_launches() ? 0 : 1;
  else return fprintf(stderr, "no toy named \"%s\"\n", name.c_str()), 2;
  for (int i = 0; i < kSize; ++i) printf("%g ", double(y[i]));
  if (options.trace) printf("\n%s", cuda_on_host::trace_report().c_str());
  printf("\n");
  out.check();
}
