// 3 x 3 convolutions by Winograd's F(4 x 4, 3 x 3), as ops/winograd.py has it, some tiles at a time: what is between the
// transforms stays in the cache. Strides skip outputs that were computed.
#include "common.h"

namespace {

constexpr int TILE = 4, SIDE = 6, POINTS = SIDE * SIDE;
constexpr int64_t WHOLE = 24;                 // tiles: a multiple of all that are multiplied together
constexpr int64_t CACHE = 100 << 10;          // floats that the transforms of a block take
constexpr int64_t SUMS = 4 << 20;             // floats of the kernel's gradients that are summed at the end
constexpr int64_t MOST_CHANNELS = 4096;

inline void input_transform(const Vector* d, int64_t step, Vector* r, int64_t to) {
  Vector d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  Vector a = d4 - 4.f * d2, b = d3 - 4.f * d1, c = d4 - d2, e = 2.f * (d3 - d1);
  r[0] = 4.f * d0 - 5.f * d2 + d4;
  r[to] = a + b;
  r[2 * to] = a - b;
  r[3 * to] = c + e;
  r[4 * to] = c - e;
  r[5 * to] = 4.f * d1 - 5.f * d3 + d5;
}
inline void output_transform(const Vector* m, int64_t step, Vector* y, int64_t to) {
  Vector s = m[step] + m[2 * step], d = m[step] - m[2 * step], t = m[3 * step] + m[4 * step], e = m[3 * step] - m[4 * step];
  y[0] = m[0] + s + t;
  y[to] = d + 2.f * e;
  y[2 * to] = s + 4.f * t;
  y[3 * to] = d + 8.f * e + m[5 * step];
}
inline void gradient_transform(const Vector* g, int64_t step, Vector* r, int64_t to) {  // the adjoint of the output's
  Vector g0 = g[0], g1 = g[step], g2 = g[2 * step], g3 = g[3 * step];
  Vector a = g0 + g2, b = g1 + g3, c = g0 + 4.f * g2, e = 2.f * g1 + 8.f * g3;
  r[0] = g0;
  r[to] = a + b;
  r[2 * to] = a - b;
  r[3 * to] = c + e;
  r[4 * to] = c - e;
  r[5 * to] = g3;
}
constexpr float G[6][3] = {{1.f / 4, 0, 0}, {-1.f / 6, -1.f / 6, -1.f / 6}, {-1.f / 6, 1.f / 6, -1.f / 6},
                           {1.f / 24, 1.f / 12, 1.f / 6}, {1.f / 24, -1.f / 12, 1.f / 6}, {0, 0, 1}};

// The tiles of all outputs before striding, example by example.
struct Grid {
  int64_t examples, down, across;

  explicit Grid(const Geometry& s)
      : examples(s.examples), down(((s.rows - 1) * s.stride + TILE) / TILE), across(((s.columns - 1) * s.stride + TILE) / TILE) {}
  int64_t tiles() const { return examples * down * across; }
  struct Place { int64_t example, i, j; };
  Place at(int64_t tile) const { return {tile / (down * across), tile / across % down, tile % across}; }
};


// One side of a convolution, as tiles see it: maps that are spread, and begin before or within the first tile.
struct Side {
  const float* maps;
  int64_t height, width, channels, spread, above, left;
};

// What lies at `at` of an axis whose values are `spread` apart; -1 where nothing does.
inline int64_t place(int64_t at, int64_t spread, int64_t size) {
  if (spread == 1) return at < size ? at : -1;
  return at >= 0 && at % spread == 0 && at / spread < size ? at / spread : -1;
}

// Tiles [first, first + count): points by tiles by channels (whole vectors), each point `apart` floats from the last.
template <int N, void (*TRANSFORM)(const Vector*, int64_t, Vector*, int64_t)>
void transform(const Grid& grid, const Side& x, int64_t first, int64_t count, float* v, int64_t apart) {
  static const float zeros[MOST_CHANNELS] = {};
  int64_t whole = up(x.channels, LANES);
  for (int64_t t = 0; t < count; ++t) {
    auto [n, i, j] = grid.at(first + t);
    int64_t rows[N], columns[N];
    for (int a = 0; a < N; ++a) {
      rows[a] = n < grid.examples ? place(i * TILE + a - x.above, x.spread, x.height) : -1;
      columns[a] = place(j * TILE + a - x.left, x.spread, x.width);
    }
    const float* at[N * N];
    for (int a = 0; a < N; ++a)
      for (int b = 0; b < N; ++b)
        at[a * N + b] = rows[a] < 0 || columns[b] < 0
                            ? zeros : x.maps + ((n * x.height + rows[a]) * x.width + columns[b]) * x.channels;
    for (int64_t c = 0; c < x.channels; c += LANES) {
      Vector d[N * N], r[SIDE * N], u[POINTS];
      for (int k = 0; k < N * N; ++k) d[k] = load(at[k] + c, x.channels - c);
      for (int b = 0; b < N; ++b) TRANSFORM(d + b, N, r + b, N);
      for (int a = 0; a < SIDE; ++a) TRANSFORM(r + a * N, 1, u + a * SIDE, 1);
      for (int k = 0; k < POINTS; ++k) store(v + k * apart + t * whole + c, u[k]);
    }
  }
}

// m[t, o] = sum over c of v[t, c] u[c, o], for R tiles and Q vectors of outputs.
template <int R, int Q>
inline void product(const float* v, int64_t inputs, const float* u, int64_t outputs, float* m) {
  Vector sum[R][Q] = {};
  for (int64_t c = 0; c < inputs; ++c) {
    Vector w[Q];
    for (int q = 0; q < Q; ++q) w[q] = load(u + c * outputs + q * LANES);
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < Q; ++q) sum[r][q] += v[r * inputs + c] * w[q];
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) store(m + r * outputs + q * LANES, sum[r][q]);
}
template <int R, int Q>
void products(const float* v, int64_t tiles, int64_t inputs, const float* u, int64_t outputs, float* m, int64_t& o) {
  for (; o + Q * LANES <= outputs; o += Q * LANES)
    for (int64_t t = 0; t < tiles; t += R) product<R, Q>(v + t * inputs, inputs, u + o, outputs, m + t * outputs + o);
}

// du[c, o] += sum over t of v[t, c] g[t, o], for R inputs and Q vectors of outputs.
template <int R, int Q>
inline void outer(const float* v, int64_t inputs, const float* g, int64_t outputs, int64_t tiles, float* du) {
  Vector sum[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) sum[r][q] = load(du + r * outputs + q * LANES);
  for (int64_t t = 0; t < tiles; ++t) {
    Vector w[Q];
    for (int q = 0; q < Q; ++q) w[q] = load(g + t * outputs + q * LANES);
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < Q; ++q) sum[r][q] += v[t * inputs + r] * w[q];
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) store(du + r * outputs + q * LANES, sum[r][q]);
}
template <int R, int Q>
void outers(const float* v, int64_t tiles, int64_t inputs, const float* g, int64_t outputs, float* du, int64_t& o) {
  for (; o + Q * LANES <= outputs; o += Q * LANES)
    for (int64_t c = 0; c < inputs; c += R) outer<R, Q>(v + c, inputs, g + o, outputs, tiles, du + c * outputs + o);
}

int64_t block_of(int64_t inputs, int64_t outputs) {
  return std::clamp<int64_t>(CACHE / (POINTS * (inputs + outputs)) / WHOLE * WHOLE, WHOLE, 4 * WHOLE);
}

ffi::Error Convolve(ffi::ThreadPool pool, Floats x, Floats w, Result y, int64_t above, int64_t left, int64_t stride,
                    int64_t spread) {
  Geometry s(x.dimensions(), y->dimensions(), above, left, stride, spread);
  Grid grid(s);
  Side input{x.typed_data(), s.height, s.width, s.inputs, s.spread, s.above, s.left};
  int64_t inputs = up(s.inputs, LANES), outputs = up(s.outputs, LANES);
  std::vector<float> kernel(POINTS * inputs * outputs);  // transformed: points by inputs by outputs
  float* u = kernel.data();
  const float* k = w.typed_data();
  share(pool, s.inputs, [&](int64_t c) {
    for (int64_t o = 0; o < s.outputs; o += LANES) {
      Vector tap[3][3], half[SIDE][3];
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) tap[i][j] = load(k + ((i * 3 + j) * s.inputs + c) * s.outputs + o, s.outputs - o);
      for (int p = 0; p < SIDE; ++p)
        for (int j = 0; j < 3; ++j) half[p][j] = G[p][0] * tap[0][j] + G[p][1] * tap[1][j] + G[p][2] * tap[2][j];
      for (int p = 0; p < SIDE; ++p)
        for (int q = 0; q < SIDE; ++q)
          store(u + ((p * SIDE + q) * inputs + c) * outputs + o,
                G[q][0] * half[p][0] + G[q][1] * half[p][1] + G[q][2] * half[p][2]);
    }
  });
  int64_t block = block_of(inputs, outputs), tiles = grid.tiles();
  float* to = y->typed_data();
  share(pool, (tiles + block - 1) / block, [&](int64_t b) {
    int64_t of_v = block * inputs + LANES, of_m = block * outputs + LANES, first = b * block;
    float* v = scratch(POINTS * (of_v + of_m));
    float* m = v + POINTS * of_v;
    transform<SIDE, input_transform>(grid, input, first, block, v, of_v);
    for (int p = 0; p < POINTS; ++p) {
      const float* vp = v + p * of_v;
      const float* kp = u + p * inputs * outputs;
      float* mp = m + p * of_m;
      int64_t o = 0;
      if constexpr (REGISTERS == 32) {
        products<6, 4>(vp, block, inputs, kp, outputs, mp, o);
        products<12, 2>(vp, block, inputs, kp, outputs, mp, o);
        products<24, 1>(vp, block, inputs, kp, outputs, mp, o);
      } else {
        products<6, 2>(vp, block, inputs, kp, outputs, mp, o);
        products<12, 1>(vp, block, inputs, kp, outputs, mp, o);
      }
    }
    for (int64_t t = 0; t < std::min(block, tiles - first); ++t) {
      auto [n, i, j] = grid.at(first + t);
      int64_t rows[TILE], columns[TILE];
      for (int a = 0; a < TILE; ++a) {
        rows[a] = place(i * TILE + a, s.stride, s.rows);
        columns[a] = place(j * TILE + a, s.stride, s.columns);
      }
      for (int64_t o = 0; o < s.outputs; o += LANES) {
        Vector d[POINTS], r[TILE * SIDE], out[TILE * TILE];
        for (int p = 0; p < POINTS; ++p) d[p] = load(m + p * of_m + t * outputs + o);
        for (int q = 0; q < SIDE; ++q) output_transform(d + q, SIDE, r + q, SIDE);
        for (int a = 0; a < TILE; ++a) output_transform(r + a * SIDE, 1, out + a * TILE, 1);
        for (int a = 0; a < TILE; ++a)
          for (int c = 0; c < TILE; ++c)
            if (rows[a] >= 0 && columns[c] >= 0)
              store(to + ((n * s.rows + rows[a]) * s.columns + columns[c]) * s.outputs + o, out[a * TILE + c],
                    s.outputs - o);
      }
    }
  });
  return ffi::Error::Success();
}

ffi::Error Gradient(ffi::ThreadPool pool, Floats x, Floats g, Result dw, int64_t above, int64_t left, int64_t stride,
                    int64_t spread) {
  Geometry s(x.dimensions(), g.dimensions(), above, left, stride, spread);
  Grid grid(s);
  Side input{x.typed_data(), s.height, s.width, s.inputs, s.spread, s.above, s.left};
  Side output{g.typed_data(), s.rows, s.columns, s.outputs, s.stride, 0, 0};
  int64_t inputs = up(s.inputs, LANES), outputs = up(s.outputs, LANES), size = POINTS * inputs * outputs;
  int64_t block = block_of(inputs, outputs), blocks = (grid.tiles() + block - 1) / block;
  int64_t parts = std::min(blocks, std::clamp<int64_t>(SUMS / size, 4, 16));  // whatever the number of threads
  std::vector<float> sums(parts * size);
  share(pool, parts, [&](int64_t part) {
    float* du = sums.data() + part * size;
    int64_t of_v = block * inputs + LANES, of_g = block * outputs + LANES;
    float* v = scratch(POINTS * (of_v + of_g));
    float* r = v + POINTS * of_v;
    for (int64_t b = part * blocks / parts; b < (part + 1) * blocks / parts; ++b) {
      transform<SIDE, input_transform>(grid, input, b * block, block, v, of_v);
      transform<TILE, gradient_transform>(grid, output, b * block, block, r, of_g);
      for (int p = 0; p < POINTS; ++p) {
        int64_t o = 0;
        float* dp = du + p * inputs * outputs;
        if constexpr (REGISTERS == 32) outers<LANES / 2, 2>(v + p * of_v, block, inputs, r + p * of_g, outputs, dp, o);
        outers<LANES, 1>(v + p * of_v, block, inputs, r + p * of_g, outputs, dp, o);
      }
    }
  });
  float* to = dw->typed_data();
  share(pool, s.inputs, [&](int64_t c) {
    for (int64_t o = 0; o < s.outputs; o += LANES) {
      Vector half[3][SIDE] = {};
      for (int p = 0; p < SIDE; ++p)
        for (int q = 0; q < SIDE; ++q) {
          Vector sum = {};
          for (int64_t part = 0; part < parts; ++part)
            sum += load(sums.data() + part * size + ((p * SIDE + q) * inputs + c) * outputs + o);
          for (int i = 0; i < 3; ++i) half[i][q] += G[p][i] * sum;
        }
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
          Vector tap = {};
          for (int q = 0; q < SIDE; ++q) tap += G[q][j] * half[i][q];
          store(to + ((i * 3 + j) * s.inputs + c) * s.outputs + o, tap, s.outputs - o);
        }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

EXPORT(flaxvision_winograd, Convolve);
EXPORT(flaxvision_winograd_gradient, Gradient);
