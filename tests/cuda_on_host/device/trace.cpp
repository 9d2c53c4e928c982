// Checks and counts every access to global memory.
//
// Checks: inside a buffer; no write to an input; no byte is written by two threads of a launch, or
// written by one and read by another; nothing is read from an output before it is written.
// Counts: the 32-byte sectors and 128-byte lines that are read and written, each once in a launch
// and each once in a block, and the accesses by width.
#include "trace.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "cuda_on_host.h"
#include "executor.h"

namespace cuda_on_host {
namespace {

constexpr uintptr_t kSector = 32, kLine = 128;
constexpr uint32_t kMany = ~0u;

// Pieces of a buffer, each counted once in a launch and once in a block.
struct Touched {
  uintptr_t size = 1, first = 0;
  std::vector<uint64_t> last_block;  // 1 + the last block to touch a piece, 0: none
  uint64_t launch = 0, blocks = 0;

  void reset(uintptr_t begin, size_t bytes, uintptr_t piece) {
    size = piece;
    first = begin / piece;
    last_block.assign(bytes ? (begin + bytes - 1) / piece - first + 1 : 0, 0);
    launch = blocks = 0;
  }
  void touch(uintptr_t begin, size_t bytes, uint64_t block) {
    for (uintptr_t i = begin / size; i <= (begin + bytes - 1) / size; ++i) {
      uint64_t& last = last_block[i - first];
      if (last == block + 1) continue;
      launch += last == 0;
      ++blocks;
      last = block + 1;
    }
  }
};

struct Buffer {
  std::string name;
  Role role;
  uintptr_t begin;
  size_t bytes;
  Touched sectors[2], lines[2];          // [write]
  std::vector<uint32_t> writer, reader;  // of each byte: 1 + thread, 0: nobody, kMany: several
  std::vector<bool> written;             // by any launch
};

struct Launch {
  dim3 grid, block;
  std::array<std::array<uint64_t, 5>, 2> accesses{};  // [write][log2 of the width]
  uint64_t rare;
  std::string traffic;
};

std::vector<Buffer> buffers;
std::vector<Launch> launches;

Buffer& buffer_of(uintptr_t begin, size_t bytes, bool write) {
  for (Buffer& b : buffers) {
    if (begin >= b.begin && begin + bytes <= b.begin + b.bytes) return b;
  }
  for (Buffer& b : buffers) {
    if (begin + bytes > b.begin && begin < b.begin + b.bytes) {
      fail("out of bounds: %s of %zu bytes at byte %td of %s, which has %zu",
           write ? "a write" : "a read", bytes, ptrdiff_t(begin - b.begin), b.name.c_str(),
           b.bytes);
    }
  }
  fail("out of bounds: %s of %zu bytes in no tensor", write ? "a write" : "a read", bytes);
}

void check(Buffer& b, size_t at, size_t bytes, bool write, uint32_t me) {
  const char* const name = b.name.c_str();
  for (size_t i = at; i < at + bytes; ++i) {
    const uint32_t writer = b.writer[i], reader = b.reader[i];
    if (write) {
      if (writer && writer != me) {
        fail("write-write race: byte %zu of %s was written by thread %u of the launch, too", i,
             name, writer - 1);
      }
      if (reader && reader != me) {
        fail("read-write race: byte %zu of %s was read by another thread of the launch", i, name);
      }
      b.writer[i] = me;
      b.written[i] = true;
    } else {
      if (writer && writer != me) {
        fail("read-write race: byte %zu of %s was written by thread %u of the launch", i, name,
             writer - 1);
      }
      if (!b.written[i]) fail("byte %zu of %s is read before it is written", i, name);
      b.reader[i] = reader && reader != me ? kMany : me;
    }
  }
}

template <class... A>
std::string format(const char* pattern, A... values) {
  char text[512];
  snprintf(text, sizeof text, pattern, values...);
  return text;
}

std::string counts(const Touched& t) {
  return format("{\"launch\": %llu, \"blocks\": %llu}", (unsigned long long)t.launch,
                (unsigned long long)t.blocks);
}

std::string widths(const std::array<uint64_t, 5>& n) {
  std::string text = "{";
  for (unsigned i = 0; i < n.size(); ++i) {
    text += format("%s\"%u\": %llu", i ? ", " : "", 1u << i, (unsigned long long)n[i]);
  }
  return text + "}";
}

}  // namespace

void trace_reset() {
  buffers.clear();
  launches.clear();
}

void trace_buffer(const char* name, Role role, const void* begin, size_t bytes) {
  if (!tracing) return;
  Buffer b{.name = name,
           .role = role,
           .begin = reinterpret_cast<uintptr_t>(begin),
           .bytes = bytes,
           .sectors = {},
           .lines = {},
           .writer = {},
           .reader = {},
           .written = {}};
  if (role == Role::output) b.written.assign(bytes, false);
  buffers.push_back(std::move(b));
}

void trace_launch(dim3 grid, dim3 block) {
  launches.push_back({.grid = grid, .block = block, .accesses = {}, .rare = 0, .traffic = {}});
  for (Buffer& b : buffers) {
    for (Touched& t : b.sectors) t.reset(b.begin, b.bytes, kSector);
    for (Touched& t : b.lines) t.reset(b.begin, b.bytes, kLine);
    if (b.role == Role::output) {
      b.writer.assign(b.bytes, 0);
      b.reader.assign(b.bytes, 0);
    }
  }
}

void trace_launch_end() {
  std::string text;
  for (const Buffer& b : buffers) {
    for (bool write : {false, true}) {
      if (!b.sectors[write].launch) continue;
      text += format("%s{\"tensor\": \"%s\", \"write\": %s, \"tensor_bytes\": %zu, \"sectors\": ",
                     text.empty() ? "" : ", ", b.name.c_str(), write ? "true" : "false", b.bytes);
      text += counts(b.sectors[write]) + ", \"lines\": " + counts(b.lines[write]) + "}";
    }
  }
  launches.back().traffic = text;
}

void trace_rare() { ++launches.back().rare; }

void check_in_tensor(const void* address) {
  buffer_of(reinterpret_cast<uintptr_t>(address), 1, false);
}

void trace_access(const void* address, size_t bytes, size_t align, bool write) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  Buffer& b = buffer_of(begin, bytes, write);
  if (write && b.role == Role::input) fail("a write to %s, an input", b.name.c_str());
  if (b.role == Role::output) {
    const uint64_t me = thread_number() + 1;
    if (me >= kMany) fail("a launch too large to trace");
    check(b, begin - b.begin, bytes, write, uint32_t(me));
  }
  b.sectors[write].touch(begin, bytes, block_number());
  b.lines[write].touch(begin, bytes, block_number());
  // What is less aligned than wide becomes several accesses.
  const size_t width = std::min<size_t>({align, bytes, 16});
  launches.back().accesses[write][unsigned(__builtin_ctzll(width))] += bytes / width;
}

std::string trace_report() {
  std::string text = "{\"launches\": [";
  for (const Launch& l : launches) {
    text += format("%s{\"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], ",
                   &l == launches.data() ? "" : ", ", l.grid.x, l.grid.y, l.grid.z, l.block.x,
                   l.block.y, l.block.z);
    text += "\"loads\": " + widths(l.accesses[0]) + ", \"stores\": " + widths(l.accesses[1]) +
            format(", \"rare\": %llu", (unsigned long long)l.rare) + ", \"traffic\": [" +
            l.traffic + "]}";
  }
  text += "], \"unwritten\": {";
  bool first = true;
  for (const Buffer& b : buffers) {
    if (b.role != Role::output) continue;
    const auto missing = std::count(b.written.begin(), b.written.end(), false);
    text += format("%s\"%s\": %lld", first ? "" : ", ", b.name.c_str(), (long long)missing);
    first = false;
  }
  return text + "}}";
}

}  // namespace cuda_on_host
