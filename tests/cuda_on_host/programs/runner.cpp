// Runs the jobs that come in on stdin, see jobs.py, and writes their results to stdout.
//
// The first defect that is found ends the process: exit status 3, and what and where on stderr.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cuda/launch/launch.h"
#include "executor.h"
#include "tensor.h"

namespace {

using namespace cuda_on_host;
using fastblur::Params;
using fastblur::cuda::Queue;
using fastblur::Type;

// Little-endian numbers, and strings of bytes, each of these behind its length.
bool read(int64_t& number) { return fread(&number, sizeof number, 1, stdin) == 1; }

int64_t read_integer() {
  int64_t number;
  if (!read(number)) fail("a job is cut off");
  return number;
}

std::string read_bytes() {
  std::string text(size_t(read_integer()), 0);
  if (fread(text.data(), 1, text.size(), stdin) != text.size()) fail("a job is cut off");
  return text;
}

void write(const void* data, size_t size) {
  if (fwrite(data, 1, size, stdout) != size) fail("cannot write the results");
}

void write(int64_t number) { write(&number, sizeof number); }

void write(const std::string& text) {
  write(int64_t(text.size()));
  write(text.data(), text.size());
}

enum class Operator : int { forward, backward, apply, all };

struct Job {
  Operator op;
  Type type;
  bool need_codes;
  Params p;
  Queue queue;
  Options options;
  size_t offset;  // of the first byte of each tensor, but the codes, behind a multiple of 512
  std::string label, x, dy, codes;

  size_t element() const { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }
  // Bytes of one image.
  size_t x_size() const { return size_t(p.channels * p.h.size * p.w.size) * element(); }
  size_t y_size() const { return size_t(p.channels * p.h.out() * p.w.out()) * element(); }
  size_t code_size() const { return size_t(fastblur::cuda::code_words_per_image(p, type)) * 4; }
  // Images whose bytes there are: all, or the last two.
  size_t images() const { return options.last_of ? 2 : size_t(p.batch); }
};

Job read_job(int64_t op) {
  Job job{};
  Params& p = job.p;
  job.op = Operator(op);
  job.type = Type(read_integer());
  job.need_codes = read_integer();
  p.channels_last = read_integer();
  p.batch = read_integer();
  p.channels = read_integer();
  for (auto* axis : {&p.h, &p.w}) {
    axis->size = read_integer();
    axis->pool = int(read_integer());
    axis->stride = read_integer();
    axis->pad = read_integer();
    axis->before = read_integer();
    axis->after = read_integer();
    const std::string taps = read_bytes();
    axis->n_taps = int(taps.size() / sizeof(double));
    std::memcpy(axis == &p.h ? p.taps_h : p.taps_w, taps.data(), taps.size());
  }
  p.border = fastblur::Border(read_integer());
  p.relu = read_integer();
  job.queue = {nullptr, int(read_integer())};
  job.options.order = Order(read_integer());
  job.options.seed = uint64_t(read_integer());
  job.options.trace = read_integer();
  job.options.dry = read_integer();
  job.options.last_of = read_integer() ? uint64_t(p.batch) : 0;
  job.offset = size_t(read_integer()) * job.element();
  job.label = read_bytes();
  job.x = read_bytes();
  job.dy = read_bytes();
  job.codes = read_bytes();
  return job;
}

// Runs the operators of one job one after another, and gathers what they return.
class Run {
 public:
  explicit Run(const Job& job) : job_(job) {}

  void run() {
    set_options(job_.options);
    set_label(job_.label);
    std::string codes = job_.codes;
    if (job_.op == Operator::forward) forward("forward", job_.need_codes);
    if (job_.op == Operator::all) codes = forward("forward", true);
    if (job_.op == Operator::all) forward("forward_without_codes", false);
    if (job_.op == Operator::backward || job_.op == Operator::all) backward(codes);
    if (job_.op == Operator::apply || job_.op == Operator::all) apply(codes);
    write(status_);
    write(int64_t(outputs_.size()));
    for (const std::string& output : outputs_) write(output);
    const char* kernel = fastblur::cuda::specialisation(job_.p, job_.type);
    write("{\"specialisation\": \"" + std::string(kernel) + "\"" + report_ + "}");
    fflush(stdout);
  }

 private:
  struct Buffer {  // a Tensor, or in a dry run an address alone
    std::unique_ptr<Tensor> tensor;
    void* address;
  };

  Buffer buffer(const char* name, Role role, size_t size_of_image, const std::string* bytes,
                size_t offset) const {
    if (job_.options.dry) return {nullptr, reinterpret_cast<void*>(4096 + offset)};
    const size_t size = size_of_image * job_.images();
    const size_t before = size_of_image * size_t(job_.p.batch) - size;
    if (bytes && bytes->size() != size) {
      fail("%s has %zu bytes and should have %zu", name, bytes->size(), size);
    }
    auto tensor =
        std::make_unique<Tensor>(name, role, size, offset, bytes ? bytes->data() : nullptr, before);
    void* const address = tensor->address();
    return {std::move(tensor), address};
  }
  Buffer input(const char* name, size_t size, const std::string& bytes) const {
    return buffer(name, Role::input, size, &bytes, job_.offset);
  }
  Buffer output(const char* name, size_t size) const {
    return buffer(name, Role::output, size, nullptr, job_.offset);
  }

  std::string keep(const Buffer& b) {
    outputs_.push_back(
        b.tensor ? std::string(static_cast<const char*>(b.tensor->data()), b.tensor->size()) : "");
    return outputs_.back();
  }

  void finish(const char* name, cudaError_t error, std::initializer_list<const Buffer*> buffers) {
    if (status_ == 0) status_ = error;
    for (const Buffer* b : buffers) {
      if (b->tensor) b->tensor->check();
    }
    report_ += ", \"" + std::string(name) + "\": " + trace_report();
  }

  std::string forward(const char* name, bool need_codes) {
    trace_reset();
    const bool room = need_codes || fastblur::cuda::forward_needs_codes(job_.p, job_.type);
    const Buffer x = input("x", job_.x_size(), job_.x), y = output("y", job_.y_size());
    const Buffer codes = buffer("codes", Role::output, room ? job_.code_size() : 0, nullptr, 0);
    const bool none = !room || job_.code_size() == 0;
    const cudaError_t error =
        fastblur::cuda::forward(job_.p, job_.type, x.address, y.address,
                                none ? nullptr : static_cast<uint32_t*>(codes.address), job_.queue);
    finish(name, error, {&x, &y, &codes});
    keep(y);
    return need_codes ? keep(codes) : "";
  }

  void backward(const std::string& code_bytes) {
    trace_reset();
    const Buffer dy = input("dy", job_.y_size(), job_.dy), dx = output("dx", job_.x_size());
    const Buffer codes = buffer("codes", Role::input, job_.code_size(), &code_bytes, 0);
    const cudaError_t error =
        fastblur::cuda::backward(job_.p, job_.type, dy.address,
                                 static_cast<uint32_t*>(codes.address), dx.address, job_.queue);
    finish("backward", error, {&dy, &dx, &codes});
    keep(dx);
  }

  void apply(const std::string& code_bytes) {
    trace_reset();
    const Buffer x = input("x", job_.x_size(), job_.x), y = output("y", job_.y_size());
    const Buffer codes = buffer("codes", Role::input, job_.code_size(), &code_bytes, 0);
    const cudaError_t error = fastblur::cuda::apply(
        job_.p, job_.type, x.address, static_cast<uint32_t*>(codes.address), y.address, job_.queue);
    finish("apply", error, {&x, &y, &codes});
    keep(y);
  }

  const Job& job_;
  int64_t status_ = 0;
  std::vector<std::string> outputs_;
  std::string report_;
};

}  // namespace

int main() {
  for (int64_t op; read(op);) {
    const Job job = read_job(op);
    Run(job).run();
  }
}
