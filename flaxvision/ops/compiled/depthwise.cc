// Depthwise convolutions, some channels of an example at a time. Kernels are (h, w, 1, C).
#include "common.h"

namespace {

constexpr int64_t CACHE = 96 << 10;  // floats of an example's channels, padded
constexpr int64_t PARTS = 16;        // of the examples, whose gradients are summed at the end
constexpr int COLUMNS = 8;           // outputs that are computed together

// Some channels of an example, with zeros around and between its values.
struct Padded {
  int64_t height, width, channels;  // whole vectors of channels

  Padded(const Geometry& s, int64_t tall, int64_t wide, int64_t channels)
      : height((s.rows - 1) * s.stride + tall), width((up(s.columns, COLUMNS) - 1) * s.stride + wide), channels(channels) {}
  int64_t size() const { return height * width * channels; }
  void fill(const Geometry& s, const float* x, int64_t n, int64_t first, float* to) const {
    int64_t count = std::min(channels, s.inputs - first);
    std::memset(to, 0, size() * 4);
    for (int64_t i = 0; i < s.height; ++i)
      for (int64_t j = 0; j < s.width; ++j) {
        int64_t row = i * s.spread + s.above, column = j * s.spread + s.left;
        if (row >= 0 && row < height && column >= 0 && column < width)
          std::memcpy(to + (row * width + column) * channels, x + ((n * s.height + i) * s.width + j) * s.inputs + first,
                      count * 4);
      }
  }
};

int64_t group_of(const Geometry& s, int64_t tall, int64_t wide) {
  int64_t most = CACHE / Padded(s, tall, wide, 1).size() / LANES * LANES;
  return std::clamp<int64_t>(most, LANES, up(s.inputs, LANES));
}

template <int W>
void convolve(ffi::ThreadPool& pool, const Geometry& s, int64_t tall, const float* x, const float* k, float* y) {
  int64_t channels = group_of(s, tall, W), groups = (s.inputs + channels - 1) / channels;
  Padded padded(s, tall, W, channels);
  int64_t step = s.stride * channels;
  share(pool, s.examples * groups, [&](int64_t unit) {
    int64_t n = unit / groups, first = unit % groups * channels, end = std::min(s.inputs, first + channels);
    float* from = scratch(padded.size());
    padded.fill(s, x, n, first, from);
    for (int64_t i = 0; i < s.rows; ++i)
      for (int64_t c = first; c < end; c += LANES)
        for (int64_t j = 0; j < s.columns; j += COLUMNS) {
          Vector sum[COLUMNS] = {};
          for (int64_t a = 0; a < tall; ++a) {
            const float* at = from + ((i * s.stride + a) * padded.width + j * s.stride) * channels + c - first;
            for (int b = 0; b < W; ++b) {
              Vector w = load(k + (a * W + b) * s.inputs + c, end - c);
              for (int l = 0; l < COLUMNS; ++l) sum[l] += w * load(at + b * channels + l * step);
            }
          }
          for (int64_t l = 0; l < std::min<int64_t>(COLUMNS, s.columns - j); ++l)
            store(y + ((n * s.rows + i) * s.columns + j + l) * s.inputs + c, sum[l], end - c);
        }
  });
}

template <int W>
void gradient(ffi::ThreadPool& pool, const Geometry& s, int64_t tall, const float* x, const float* g, float* dk) {
  int64_t channels = group_of(s, tall, W), groups = (s.inputs + channels - 1) / channels;
  Padded padded(s, tall, W, channels);
  int64_t parts = std::min(PARTS, s.examples), taps = tall * W, whole = groups * channels;
  std::vector<float> sums(parts * taps * whole);
  share(pool, parts * groups, [&](int64_t unit) {
    int64_t part = unit / groups, first = unit % groups * channels, end = std::min(s.inputs, first + channels);
    float* from = scratch(padded.size());
    for (int64_t n = part * s.examples / parts; n < (part + 1) * s.examples / parts; ++n) {
      padded.fill(s, x, n, first, from);
      for (int64_t i = 0; i < s.rows; ++i)
        for (int64_t c = first; c < end; c += LANES)
          for (int64_t a = 0; a < tall; ++a) {
            float* to = sums.data() + (part * taps + a * W) * whole + c;
            const float* at = from + (i * s.stride + a) * padded.width * channels + c - first;
            Vector sum[W];
            for (int b = 0; b < W; ++b) sum[b] = load(to + b * whole);
            for (int64_t j = 0; j < s.columns; ++j) {
              Vector given = load(g + ((n * s.rows + i) * s.columns + j) * s.inputs + c, end - c);
              for (int b = 0; b < W; ++b) sum[b] += given * load(at + (j * s.stride + b) * channels);
            }
            for (int b = 0; b < W; ++b) store(to + b * whole, sum[b]);
          }
    }
  });
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t c = 0; c < s.inputs; c += LANES) {
      Vector sum = {};
      for (int64_t part = 0; part < parts; ++part) sum += load(sums.data() + (part * taps + t) * whole + c);
      store(dk + t * s.inputs + c, sum, s.inputs - c);
    }
}

ffi::Error Convolve(ffi::ThreadPool pool, Floats x, Floats k, Result y, int64_t above, int64_t left, int64_t stride,
                    int64_t spread) {
  Geometry s(x.dimensions(), y->dimensions(), above, left, stride, spread);
  int64_t tall = k.dimensions()[0];
  switch (k.dimensions()[1]) {
    case 3: convolve<3>(pool, s, tall, x.typed_data(), k.typed_data(), y->typed_data()); break;
    case 5: convolve<5>(pool, s, tall, x.typed_data(), k.typed_data(), y->typed_data()); break;
    case 7: convolve<7>(pool, s, tall, x.typed_data(), k.typed_data(), y->typed_data()); break;
    case 9: convolve<9>(pool, s, tall, x.typed_data(), k.typed_data(), y->typed_data()); break;
    default: return ffi::Error::InvalidArgument("kernels are 3, 5, 7 or 9 wide");
  }
  return ffi::Error::Success();
}

ffi::Error Gradient(ffi::ThreadPool pool, Floats x, Floats g, Result dk, int64_t above, int64_t left, int64_t stride,
                    int64_t spread) {
  Geometry s(x.dimensions(), g.dimensions(), above, left, stride, spread);
  int64_t tall = dk->dimensions()[0];
  switch (dk->dimensions()[1]) {
    case 3: gradient<3>(pool, s, tall, x.typed_data(), g.typed_data(), dk->typed_data()); break;
    case 5: gradient<5>(pool, s, tall, x.typed_data(), g.typed_data(), dk->typed_data()); break;
    case 7: gradient<7>(pool, s, tall, x.typed_data(), g.typed_data(), dk->typed_data()); break;
    case 9: gradient<9>(pool, s, tall, x.typed_data(), g.typed_data(), dk->typed_data()); break;
    default: return ffi::Error::InvalidArgument("kernels are 3, 5, 7 or 9 wide");
  }
  return ffi::Error::Success();
}

}  // namespace

EXPORT(flaxvision_depthwise, Convolve);
EXPORT(flaxvision_depthwise_gradient, Gradient);
