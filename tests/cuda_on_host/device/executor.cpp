// Runs a launch: the blocks one after another, the threads of a block in turns.
//
// A thread runs until it synchronises. Then the next lane of its warp runs, and after the last one
// the warp either goes on together or has come to a barrier of the block, and it is the next
// warp's turn. Everything is checked when a warp, or a block, has no thread left to run.
#include "executor.h"

#include <link.h>
#include <signal.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <vector>

#include "cuda_on_host.h"
#include "fiber.h"
#include "trace.h"

namespace cuda_on_host {

bool tracing = false;

namespace {

constexpr unsigned kMaxThreads = 1024, kWarp = 32;
constexpr size_t kMaxShared = 48 << 10;

enum class State : uint8_t { ready, at_warp, at_block, left };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state;
  uint8_t parity;       // which of the two slots is in use
  uint8_t barriers[2];  // passed, of the block and of the warp
  uint64_t slot[2];     // two, since a fast lane deposits again before a slow one has collected
  const char* what;     // it waits for, and where
  Site site;
};

Thread threads[kMaxThreads];
uint8_t warp_order[kMaxThreads / kWarp], lane_order[kWarp];  // the turns
unsigned count, warps;                                       // threads and warps in the block
unsigned current, turn_of_warp, turn_of_lane;
uint64_t blocks_done;  // number of the block that runs

// What happens-before hangs on. Barriers take turns with two each, lest a thread that is quick to
// come to the next one seem to be ordered before a slow one that has yet to leave this one.
char start_memory, end_memory, block_memory[2], warp_memory[kMaxThreads / kWarp][2];

Fiber main_fiber;
void (*body)(void*);
void* kernel;
char *shared = nullptr, *shared_end = nullptr;  // the variables of all kernels
char* dynamic = nullptr;
size_t dynamic_bytes = 0;

Options options;
uint64_t random_state;
std::string label;
bool in_kernel = false;

uint64_t random_below(uint64_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (random_state >> 11) % n;
}

void order_turns(uint8_t* turns, unsigned n) {
  for (unsigned i = 0; i < n; ++i) {
    turns[i] = uint8_t(options.order == Order::reverse ? n - 1 - i : i);
  }
  if (options.order != Order::random) return;
  for (unsigned i = n; i > 1; --i) std::swap(turns[i - 1], turns[random_below(i)]);
}

unsigned lanes_of(unsigned warp) { return std::min(kWarp, count - warp * kWarp); }

void start_pass_of_warp() {
  order_turns(lane_order, lanes_of(warp_order[turn_of_warp]));
  turn_of_lane = 0;
}

void start_phase_of_block() {
  order_turns(warp_order, warps);
  turn_of_warp = 0;
  start_pass_of_warp();
}

const char* describe(const Thread& thread) {
  static char text[2][300];
  static int next = 0;
  char* to = text[next ^= 1];
  const uint3 i = thread.index;
  if (thread.state == State::left) {
    snprintf(to, sizeof text[0], "thread %u,%u,%u left the kernel", i.x, i.y, i.z);
  } else {
    snprintf(to, sizeof text[0], "thread %u,%u,%u waits at %s of %s:%u", i.x, i.y, i.z, thread.what,
             thread.site.file_name(), unsigned(thread.site.line()));
  }
  return to;
}

// All of threads [begin, end) must wait for the same thing at the same place, or have left.
State check_same(unsigned begin, unsigned end, const char* group) {
  const Thread& first = threads[begin];
  for (unsigned i = begin + 1; i < end; ++i) {
    const Thread& other = threads[i];
    const bool same =
        other.state == first.state &&
        (first.state == State::left ||
         (other.site.line() == first.site.line() && other.site.column() == first.site.column() &&
          !std::strcmp(other.site.file_name(), first.site.file_name())));
    if (!same) fail("divergence in a %s: %s, %s", group, describe(first), describe(other));
  }
  return first.state;
}

void set_ready(unsigned begin, unsigned end) {
  for (unsigned i = begin; i < end; ++i) threads[i].state = State::ready;
}

// The number of the thread whose turn it is, or -1 when the block is done.
int next_thread() {
  for (;;) {
    const unsigned warp = warp_order[turn_of_warp], begin = warp * kWarp;
    const unsigned lanes = lanes_of(warp);
    while (turn_of_lane < lanes) {
      const unsigned i = begin + lane_order[turn_of_lane++];
      if (threads[i].state == State::ready) return int(i);
    }
    if (check_same(begin, begin + lanes, "warp") == State::at_warp) {
      set_ready(begin, begin + lanes);
    } else if (++turn_of_warp == warps) {
      if (check_same(0, count, "block") == State::left) return -1;
      set_ready(0, count);
      start_phase_of_block();
      continue;
    }
    start_pass_of_warp();
  }
}

void resume(int next, Fiber& from) {
  if (next < 0) return from.switch_to(main_fiber);
  current = unsigned(next);
  threadIdx = threads[next].index;
  if (&threads[next].fiber != &from) from.switch_to(threads[next].fiber);
}

void wait(State state, const char* what, Site site) {
  Thread& me = threads[current];
  me.state = state;
  me.what = what;
  me.site = site;
  resume(next_thread(), me.fiber);
}

void run_thread() {
  Fiber::started();
  for (;;) {  // once for each block
    acquire_memory(&start_memory);
    body(kernel);
    release_memory(&end_memory);
    threads[current].state = State::left;
    resume(next_thread(), threads[current].fiber);
  }
}

// NaNs, and an integer nobody expects.
void poison(char* begin, char* end) { std::fill(begin, end, char(0xff)); }

// The first object is the program; its thread-local variables are the __shared__ ones.
int find_shared(dl_phdr_info* program, size_t, void*) {
  for (int i = 0; i < program->dlpi_phnum; ++i) {
    const ElfW(Phdr) & part = program->dlpi_phdr[i];
    if (part.p_type != PT_TLS) continue;
    shared = static_cast<char*>(program->dlpi_tls_data);
    shared_end = shared + part.p_memsz;
  }
  return 1;
}

void run_block(uint3 index) {
  blockIdx = index;
  poison(shared, shared_end);
  poison(dynamic, dynamic + dynamic_bytes);
  set_ready(0, count);
  start_phase_of_block();
  release_memory(&start_memory);
  resume(next_thread(), main_fiber);
  acquire_memory(&end_memory);
}

void report_crash(int signal) {
  fail("signal %d (%s)", signal, signal == SIGSEGV ? "a wild pointer or no stack left" : "crash");
}

// On a stack of its own: that of the fiber may be what is exhausted.
void catch_crashes() {
#if !defined(CUDA_ON_HOST_ASAN) && !defined(CUDA_ON_HOST_TSAN)
  static char stack[64 << 10];
  const stack_t alternative{stack, 0, sizeof stack};
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_handler = report_crash;
  action.sa_flags = SA_ONSTACK;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, nullptr);
#else
  (void)report_crash;
#endif
}

void print_place() {
  fprintf(stderr, "cuda_on_host: in job: %s\n", label.c_str());
  if (!in_kernel) return;
  const uint3 b = blockIdx, t = threadIdx;
  fprintf(stderr, "cuda_on_host: in block %u,%u,%u thread %u,%u,%u\n", b.x, b.y, b.z, t.x, t.y,
          t.z);
}

bool launchable(dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t size = uint64_t(block.x) * block.y * block.z;
  return grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
         grid.z <= 65535 && size >= 1 && size <= kMaxThreads && block.x <= 1024 &&
         block.y <= 1024 && block.z <= 64 && shared_bytes <= kMaxShared;
}

}  // namespace

void set_options(const Options& wanted) {
  options = wanted;
  random_state = wanted.seed * 0x9e3779b97f4a7c15u | 1;
  tracing = wanted.trace;
}

void set_label(const std::string& text) { label = text; }

uint64_t block_number() { return blocks_done; }
uint64_t thread_number() { return blocks_done * count + current; }

void fail(const char* format, ...) {
  fprintf(stderr, "cuda_on_host: ");
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  print_place();
  fflush(nullptr);
  _exit(3);
}

void fail_misaligned(const void* address, size_t bytes, size_t align) {
  fail("misaligned access: %zu bytes at %p, which must be a multiple of %zu", bytes, address,
       align);
}

unsigned lane() { return current % kWarp; }
unsigned lanes() { return lanes_of(current / kWarp); }
void* dynamic_shared() { return dynamic; }

void wait_for_block(Site site) {
  void* const memory = &block_memory[threads[current].barriers[0]++ % 2];
  release_memory(memory);
  wait(State::at_block, "__syncthreads", site);
  acquire_memory(memory);
}

void wait_for_warp(const char* what, unsigned mask, Site site, bool ordered) {
  if (mask != ~0u) fail("%s: mask %#x is not full", what, mask);
  void* const memory = &warp_memory[current / kWarp][threads[current].barriers[1] % 2];
  threads[current].barriers[1] += ordered;
  if (ordered) release_memory(memory);
  wait(State::at_warp, what, site);
  if (ordered) acquire_memory(memory);
}

void deposit(uint64_t value) {
  Thread& me = threads[current];
  me.parity ^= 1;
  me.slot[me.parity] = value;
}

uint64_t collect(int from) {
  if (from < 0 || from >= int(lanes())) return ~uint64_t{0};
  const Thread& me = threads[current];
  return threads[current / kWarp * kWarp + unsigned(from)].slot[me.parity];
}

cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, void (*call)(void*), void* argument) {
  if (!launchable(grid, block, shared_bytes)) return cudaErrorInvalidConfiguration;
  trace_launch(grid, block);
  if (options.dry) return cudaSuccess;
  static bool first = true;
  if (first) {
    dl_iterate_phdr(find_shared, nullptr);
    catch_crashes();
#if defined(CUDA_ON_HOST_ASAN)
    __sanitizer_set_death_callback(print_place);
#endif
    first = false;
  }
  main_fiber.adopt();
  body = call;
  kernel = argument;
  gridDim = grid;
  blockDim = block;
  count = block.x * block.y * block.z;
  warps = (count + kWarp - 1) / kWarp;
  for (unsigned i = 0; i < count; ++i) {
    if (!threads[i].fiber.created()) threads[i].fiber.create(run_thread);
    threads[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    threads[i].parity = threads[i].barriers[0] = threads[i].barriers[1] = 0;
  }
  // Of the exact size, so that ASan sees an access beyond it.
  dynamic_bytes = shared_bytes;
  dynamic = static_cast<char*>(std::malloc(shared_bytes));
  in_kernel = true;
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  // Two blocks to spare are two parts of the units, as long as images are too low for chunks.
  const uint64_t last = options.last_of ? grid.x / options.last_of + 2 : grid.x;
  for (uint64_t i = 0; i < blocks; ++i) {
    blocks_done = options.order == Order::reverse ? blocks - 1 - i : i;
    if (blocks_done % grid.x + last < grid.x) continue;
    run_block({unsigned(blocks_done % grid.x), unsigned(blocks_done / grid.x % grid.y),
               unsigned(blocks_done / grid.x / grid.y)});
  }
  in_kernel = false;
  std::free(dynamic);
  dynamic_bytes = 0;
  trace_launch_end();
  return cudaSuccess;
}

}  // namespace cuda_on_host
