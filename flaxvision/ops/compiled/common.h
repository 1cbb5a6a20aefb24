// What the kernels share: vectors, scratch memory, threads. All maps are float32, batch first, channels last.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#else
constexpr int LANES = 4, REGISTERS = 32;
#endif
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector load(const float* p, int64_t left) {  // of which only `left` floats are there
  if (left >= LANES) return load(p);
  Vector v = {};
  std::memcpy(&v, p, left * 4);
  return v;
}
inline void store(float* p, Vector v, int64_t left) {
  if (left >= LANES) store(p, v);
  else std::memcpy(p, &v, left * 4);
}

// Memory of this thread, aligned to cache lines, not cleared.
inline float* scratch(int64_t floats) {
  struct Free { void operator()(float* p) const { std::free(p); } };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t size = 0;
  if (floats > size) {
    memory.reset();
    memory.reset(static_cast<float*>(std::aligned_alloc(64, up(floats * 4, 64))));
    size = floats;
  }
  return memory.get();
}

// Calls work(0) ... work(count - 1), each once, on this thread and those of the pool that are free. It waits for calls
// that were begun only, so that it ends even if the pool never gets to it. What is summed over calls must be kept apart
// by their numbers: then results do not depend on the number of threads.
template <typename Work>
void share(ffi::ThreadPool& pool, int64_t count, const Work& work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all;
  };
  auto state = std::make_shared<State>();
  auto run = [state, count, &work] {  // who comes too late takes nothing, and does not touch `work`
    for (int64_t i; (i = state->next.fetch_add(1)) < count;) {
      work(i);
      if (state->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(state->mutex);
        state->all.notify_all();
      }
    }
  };
  int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    auto helper = run;
    pool.Schedule(std::move(helper));
  }
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all.wait(lock, [&] { return state->done.load() == count; });
}

// Where windows lie: y = correlation of x, spread by zeros between its values, from `above` rows and `left` columns
// before it, of which every `stride`-th value is kept. The gradient of x is of this kind, too, with stride and spread
// swapped.
struct Geometry {
  int64_t examples, height, width, inputs, rows, columns, outputs, above, left, stride, spread;

  Geometry(ffi::Span<const int64_t> x, ffi::Span<const int64_t> y, int64_t above, int64_t left, int64_t stride,
           int64_t spread)
      : examples(x[0]), height(x[1]), width(x[2]), inputs(x[3]), rows(y[1]), columns(y[2]), outputs(y[3]), above(above),
        left(left), stride(stride), spread(spread) {}
};

#define EXPORT(name, function)                                                                     \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                                                    \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>() \
                                    .Ret<Floats>().Attr<int64_t>("above").Attr<int64_t>("left")      \
                                    .Attr<int64_t>("stride").Attr<int64_t>("spread"))
