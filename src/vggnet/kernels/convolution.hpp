// Convolutions over maps whose channels lie together (N×H×W×C), bias, ReLU and pooling in one.
#pragma once

#include <vector>

#include "product.hpp"
#include "threads.hpp"
#include "winograd.hpp"

// Output channels in a group: its products and outputs are done before the next group's weights are read.
constexpr int GROUP = COLUMNS > 64 ? COLUMNS : 64;
constexpr int PANELS = GROUP / COLUMNS;

struct Map {
  float *values;
  int n, height, width;
  int channels;  // in use
  int stride;    // floats from one pixel to the next: channels rounded up to COLUMNS
};

constexpr long rounded(long n, long to) { return (n + to - 1) / to * to; }

// A Winograd layer's weights: for each group of output channels, for each of the side² products, its
// panels, each channels × COLUMNS.
template <typename T>
inline long transformed_floats(int in, int out) {
  return rounded(out, COLUMNS) * T::side * T::side * in;
}

// Weights of a convolution to a Winograd layer's, computed in float64. Strides are in floats and may be
// negative: the gradient of the input is a convolution with the weights turned by 180° and their channels
// exchanged.
template <typename T>
inline void transform_weights(Team &team, const float *w, long out_step, long in_step, long row_step,
                              long column_step, int in, int out, float *into) {
  constexpr int side = T::side, r = T::r;
  double filter[side][r];
  for (int i = 0; i < side; i++)
    for (int j = 0; j < r; j++) filter[i][j] = T::filter(i, j, r);
  const int all_panels = static_cast<int>(rounded(out, COLUMNS) / COLUMNS);
  team.share(all_panels, [&](int panel) {
    const int group = panel / PANELS, p = panel % PANELS;
    const int panels = std::min(PANELS, all_panels - group * PANELS);
    float *base = into + static_cast<long>(group) * side * side * PANELS * in * COLUMNS;
    for (int c = 0; c < in; c++) {
      double given[r][r][COLUMNS], half[side][r][COLUMNS];
      for (int i = 0; i < r; i++)
        for (int j = 0; j < r; j++)
          for (int l = 0; l < COLUMNS; l++) {
            const long k = static_cast<long>(panel) * COLUMNS + l;
            given[i][j][l] =
                k < out ? w[k * out_step + c * in_step + i * row_step + j * column_step] : 0;
          }
      for (int i = 0; i < side; i++)
        for (int j = 0; j < r; j++)
          for (int l = 0; l < COLUMNS; l++) {
            double sum = 0;
            for (int k = 0; k < r; k++) sum += filter[i][k] * given[k][j][l];
            half[i][j][l] = sum;
          }
      for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
          float *to =
              base + (static_cast<long>(i * side + j) * panels + p) * in * COLUMNS + c * COLUMNS;
          for (int l = 0; l < COLUMNS; l++) {
            double sum = 0;
            for (int k = 0; k < r; k++) sum += half[i][k][l] * filter[j][k];
            to[l] = static_cast<float>(sum);
          }
        }
    }
  });
}

// Input channels that are multiplied at a time: a panel's slice of so many stays in the first-level cache.
constexpr int SLICE = 256;

template <typename T>
struct Winograd {
  static constexpr int side = T::side, products = side * side, m = T::m, pad = T::r / 2;

  const Map in, out;            // out's size is after the pooling
  const float *weights, *bias;  // no bias where it is null
  const float *zeros;           // what lies beyond the map's border: a pixel's channels
  const bool relu, pool;
  const int rows = (in.height + m - 1) / m, columns = (in.width + m - 1) / m;
  const int tiles = in.n * rows * columns;
  const int in_stride = static_cast<int>(rounded(in.channels, LANES));
  const int groups = static_cast<int>(rounded(out.stride, GROUP) / GROUP);

  // Floats from one product's rows to the next's, for so many tiles of so many channels. The line that is
  // added keeps the side² streams out of one set of the cache.
  static long apart(int tiles, int channels) { return static_cast<long>(tiles) * channels + 16; }
  static long data_floats(int tiles, int channels) {
    return products * apart(tiles, static_cast<int>(rounded(channels, LANES)));
  }
  static long sums_floats(int tiles) { return products * apart(tiles, GROUP); }

  struct Place {
    int n, y, x;
  };
  Place place(int tile) const {
    const int x = tile % columns, row = tile / columns;
    return {row / rows, row % rows * m, x * m};
  }

  // Tile `tile` of the map, transformed, into row `row` of each product's matrix.
  void transform_data(int tile, int row, float *data, long data_apart) const {
    transform_data(tile, data + static_cast<long>(row) * in_stride, data_apart);
  }

  void transform_data(int tile, float *into, long data_apart) const {
    const Place at = place(tile);
    const float *pixel[products];
    for (int i = 0; i < side; i++)
      for (int j = 0; j < side; j++) {
        const int y = at.y + i - pad, x = at.x + j - pad;
        const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
        pixel[i * side + j] =
            inside ? in.values + ((static_cast<long>(at.n) * in.height + y) * in.width + x) * in.stride
                   : zeros;
      }
    const long to_next = static_cast<long>(m) * in.stride;
    for (int c = 0; c < in_stride; c += LANES) {
      Vec half[side][side];
#pragma GCC unroll 8
      for (int j = 0; j < side; j++) {
        Vec column[side], done[side];
#pragma GCC unroll 8
        for (int i = 0; i < side; i++) column[i] = load(pixel[i * side + j] + c);
        if (j >= side - m)  // what the next tile does not share with this one
#pragma GCC unroll 8
          for (int i = 0; i < side; i++) __builtin_prefetch(pixel[i * side + j] + to_next + c);
        T::data(column, done);
#pragma GCC unroll 8
        for (int i = 0; i < side; i++) half[i][j] = done[i];
      }
#pragma GCC unroll 8
      for (int i = 0; i < side; i++) {
        Vec done[side];
        T::data(half[i], done);
#pragma GCC unroll 8
        for (int j = 0; j < side; j++) store(into + (i * side + j) * data_apart + c, done[j]);
      }
    }
  }

  // The products of so many tiles with a group's weights.
  void multiply(const float *data, long data_apart, int count, int group, float *sums,
                long sums_apart) const {
    const int panels = std::min(PANELS, (out.stride - group * GROUP) / COLUMNS);
    const float *panel =
        weights + static_cast<long>(group) * products * PANELS * in.channels * COLUMNS;
    for (int i = 0; i < products; i++)
      for (int p = 0; p < panels; p++)
        for (int k = 0; k < in.channels; k += SLICE) {
          const int n = std::min(SLICE, in.channels - k);
          const float *next = panel + static_cast<long>(n) * COLUMNS;
          in_blocks(count, [&](auto size, int first) {
            const float *a = data + i * data_apart + static_cast<long>(first) * in_stride + k;
            float *to = sums + i * sums_apart + static_cast<long>(first) * GROUP + p * COLUMNS;
            // Each block brings its part of the next slice nearer, a little with each of its steps.
            const float *ahead = next + static_cast<long>(n) * COLUMNS * first / count;
            const int stride = (size * COLUMNS + count - 1) / count;
            micro_tile<size>(
                a, in_stride, 1, 0, n, 1, panel, COLUMNS,
                [&](Vec sum, int r, int half) {
                  float *place = to + r * GROUP + half * LANES;
                  store(place, k ? load(place) + sum : sum);
                },
                [&](int step) { __builtin_prefetch(ahead + static_cast<long>(step) * stride, 0, 2); });
          });
          panel = next;
        }
  }

  // Row `row` of the sums to tile `tile` of the output, with bias, ReLU and pooling.
  void transform_outputs(int tile, int row, int group, const float *sums, long sums_apart) const {
    const Place at = place(tile);
    const int height = pool ? m / 2 : m;
    const int y0 = pool ? at.y / 2 : at.y, x0 = pool ? at.x / 2 : at.x;
    const int high = std::min(height, out.height - y0), wide = std::min(height, out.width - x0);
    const int channels = std::min(GROUP, out.stride - group * GROUP);
    const float *from = sums + static_cast<long>(row) * GROUP;
    float *to = out.values +
                ((static_cast<long>(at.n) * out.height + y0) * out.width + x0) * out.stride +
                group * GROUP;
    for (int c = 0; c < channels; c += LANES) {
      const Vec shift = bias ? load(bias + group * GROUP + c) : Vec{};
      Vec half[m][side];
#pragma GCC unroll 8
      for (int j = 0; j < side; j++) {
        Vec column[side], done[m];
#pragma GCC unroll 8
        for (int i = 0; i < side; i++) column[i] = load(from + (i * side + j) * sums_apart + c);
        T::outputs(column, done);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) half[i][j] = done[i];
      }
      Vec y[m][m];
#pragma GCC unroll 8
      for (int i = 0; i < m; i++) {
        T::outputs(half[i], y[i]);
#pragma GCC unroll 8
        for (int j = 0; j < m; j++) {
          y[i][j] += shift;
          if (relu) y[i][j] = relu_of(y[i][j]);
        }
      }
      if (pool) {
#pragma GCC unroll 8
        for (int i = 0; i < m / 2; i++)
#pragma GCC unroll 8
          for (int j = 0; j < m / 2; j++)
            if (i < high && j < wide)
              store(to + (static_cast<long>(i) * out.width + j) * out.stride + c,
                    larger(larger(y[2 * i][2 * j], y[2 * i][2 * j + 1]),
                           larger(y[2 * i + 1][2 * j], y[2 * i + 1][2 * j + 1])));
      } else {
#pragma GCC unroll 8
        for (int i = 0; i < m; i++)
#pragma GCC unroll 8
          for (int j = 0; j < m; j++)
            if (i < high && j < wide)
              store(to + (static_cast<long>(i) * out.width + j) * out.stride + c, y[i][j]);
      }
    }
  }

  // Each thread takes a band of tiles through all three steps, in memory of its own that stays in its
  // cache. For layers of few weights and many tiles.
  void in_bands(Team &team, int thread, int band, float *memory) const {
    const long data_apart = apart(band, in_stride), sums_apart = apart(band, GROUP);
    float *data = memory + thread * (data_floats(band, in.channels) + sums_floats(band));
    float *sums = data + data_floats(band, in.channels);
    const int bands = (tiles + band - 1) / band;
    team.share(bands, [&](int i) {
      const int first = static_cast<int>(static_cast<long>(tiles) * i / bands);
      const int count = static_cast<int>(static_cast<long>(tiles) * (i + 1) / bands) - first;
      for (int t = 0; t < count; t++) transform_data(first + t, t, data, data_apart);
      for (int g = 0; g < groups; g++) {
        multiply(data, data_apart, count, g, sums, sums_apart);
        for (int t = 0; t < count; t++) transform_outputs(first + t, t, g, sums, sums_apart);
      }
    });
  }

  // All threads transform the data of many tiles; then each takes groups of output channels, so that every
  // weight is read by one of them only. For layers whose weights exceed the cache.
  void in_groups(Team &team, int thread, int most, int band, float *memory) const {
    float *sums = memory + data_floats(most, in.channels) + thread * sums_floats(band);
    const long data_apart = apart(most, in_stride), sums_apart = apart(band, GROUP);
    const int rounds = (tiles + most - 1) / most;
    for (int round = 0; round < rounds; round++) {
      const int first = static_cast<int>(static_cast<long>(tiles) * round / rounds);
      const int count = static_cast<int>(static_cast<long>(tiles) * (round + 1) / rounds) - first;
      constexpr int together = 4;
      team.share((count + together - 1) / together, [&](int i) {
        for (int t = i * together; t < std::min(count, (i + 1) * together); t++)
          transform_data(first + t, t, memory, data_apart);
      });
      const int bands = (count + band - 1) / band;
      team.share(groups * bands, [&](int i) {
        const int g = i / bands, b = i % bands;
        const int begin = static_cast<int>(static_cast<long>(count) * b / bands);
        const int size = static_cast<int>(static_cast<long>(count) * (b + 1) / bands) - begin;
        multiply(memory + static_cast<long>(begin) * in_stride, data_apart, size, g, sums, sums_apart);
        for (int t = 0; t < size; t++) transform_outputs(first + begin + t, t, g, sums, sums_apart);
      });
    }
  }
};

// The gradient of a Winograd layer's weights: the layer's own arithmetic turned round, so as few products.
// The gradient of the sums is the outputs' transposed transform; the gradient of the transformed weights
// is a product over tiles; back through the weights' transform it is that of the weights.
template <typename T>
struct WeightGradient {
  static constexpr int side = T::side, products = side * side, m = T::m, r = T::r;

  const Winograd<T> layer;  // its `in` is the layer's input, its `out` the gradient of the output
  const int most;           // tiles at a time
  float *const memory;
  // A line more than the channels, so that a column of the matrices is not in one set of the cache.
  const int data_stride = layer.in_stride + 16, sums_stride = layer.out.stride + 16;
  const long data_apart = static_cast<long>(most) * data_stride;
  const long sums_apart = static_cast<long>(most) * sums_stride;
  float *const data = memory, *const sums = data + products * data_apart,
               *const gradient = sums + products * sums_apart;

  static long floats(int most, int in, int out) {
    return products * (static_cast<long>(most) * (rounded(in, LANES) + out + 32) +
                       static_cast<long>(in) * out);
  }

  void run(Team &team, float *into, long out_step, long in_step, long row_step, long column_step) const {
    const int rounds = (layer.tiles + most - 1) / most, channels = layer.in.channels;
    for (int round = 0; round < rounds; round++) {
      const int first = static_cast<int>(static_cast<long>(layer.tiles) * round / rounds);
      const int count = static_cast<int>(static_cast<long>(layer.tiles) * (round + 1) / rounds) - first;
      team.share(count, [&](int t) {
        layer.transform_data(first + t, data + static_cast<long>(t) * data_stride, data_apart);
        transform_gradient(first + t, sums + static_cast<long>(t) * sums_stride);
      });
      // Blocks of input channels that share the cache lines of the transformed data.
      constexpr int block = 48;
      const int blocks = (channels + block - 1) / block;
      team.share(products * blocks, [&](int i) {
        const int product = i / blocks, begin = i % blocks * block;
        const float *a = data + product * data_apart + begin;
        for (int p = 0; p < layer.out.stride; p += COLUMNS)
          in_blocks(std::min(block, channels - begin), [&](auto size, int c) {
            float *to = gradient +
                        (static_cast<long>(product) * channels + begin + c) * layer.out.stride + p;
            micro_tile<size>(a + c, 1, data_stride, 0, count, 1, sums + product * sums_apart + p,
                             sums_stride, [&](Vec sum, int row, int half) {
                               float *place = to + static_cast<long>(row) * layer.out.stride + half * LANES;
                               store(place, round ? load(place) + sum : sum);
                             });
          });
      });
    }
    double filter[side][r];
    for (int i = 0; i < side; i++)
      for (int j = 0; j < r; j++) filter[i][j] = T::filter(i, j, r);
    team.share(channels, [&](int c) {
      for (int k = 0; k < layer.out.channels; k += COLUMNS) {
        double half[r][side][COLUMNS] = {};
        for (int i = 0; i < side; i++)
          for (int j = 0; j < side; j++) {
            const float *from =
                gradient + (static_cast<long>(i * side + j) * channels + c) * layer.out.stride + k;
            for (int o = 0; o < r; o++)
              for (int l = 0; l < COLUMNS; l++) half[o][j][l] += filter[i][o] * from[l];
          }
        for (int o = 0; o < r; o++)
          for (int q = 0; q < r; q++) {
            double sum[COLUMNS] = {};
            for (int j = 0; j < side; j++)
              for (int l = 0; l < COLUMNS; l++) sum[l] += half[o][j][l] * filter[j][q];
            float *to = into + k * out_step + c * in_step + o * row_step + q * column_step;
            for (int l = 0; l < std::min(COLUMNS, layer.out.channels - k); l++)
              to[l * out_step] = static_cast<float>(sum[l]);
          }
      }
    });
  }

  void transform_gradient(int tile, float *into) const {
    const auto at = layer.place(tile);
    const Map &out = layer.out;
    const float *pixel[m * m];
    for (int i = 0; i < m; i++)
      for (int j = 0; j < m; j++) {
        const bool inside = at.y + i < out.height && at.x + j < out.width;
        pixel[i * m + j] = inside ? out.values + ((static_cast<long>(at.n) * out.height + at.y + i) *
                                                      out.width + at.x + j) * out.stride
                                  : layer.zeros;
      }
    for (int c = 0; c < out.stride; c += LANES) {
      Vec half[side][m];
#pragma GCC unroll 8
      for (int j = 0; j < m; j++) {
        Vec column[m], done[side];
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) column[i] = load(pixel[i * m + j] + c);
        T::gradients(column, done);
#pragma GCC unroll 8
        for (int i = 0; i < side; i++) half[i][j] = done[i];
      }
#pragma GCC unroll 8
      for (int i = 0; i < side; i++) {
        Vec done[side];
        T::gradients(half[i], done);
#pragma GCC unroll 8
        for (int j = 0; j < side; j++) store(into + (i * side + j) * sums_apart + c, done[j]);
      }
    }
  }
};

// A convolution as it is written down: for layers of few input channels, and 1×1. `in` has its border of
// zeros already. Weights: panels of height × (width·channels) × COLUMNS.
struct Direct {
  const Map in, out;
  const float *weights, *bias;
  const int kernel;
  const bool relu;

  void run(Team &team) const {
    const int panels = out.stride / COLUMNS, length = kernel * in.stride;
    team.share(out.n * out.height, [&](int i) {
      const int n = i / out.height, y = i % out.height;
      const long row = static_cast<long>(in.width) * in.stride;
      const float *from = in.values + (static_cast<long>(n) * in.height + y) * row;
      float *to = out.values + static_cast<long>(i) * out.width * out.stride;
      for (int p = 0; p < panels; p++) {
        const float *panel = weights + static_cast<long>(p) * kernel * length * COLUMNS;
        in_blocks(out.width, [&](auto size, int first) {
          float *pixel = to + static_cast<long>(first) * out.stride + p * COLUMNS;
          const float *shift = bias + p * COLUMNS;
          micro_tile<size>(from + static_cast<long>(first) * in.stride, in.stride, 1, row, length, kernel,
                           panel, COLUMNS, [&](Vec sum, int r, int half) {
                             sum += load(shift + half * LANES);
                             if (relu) sum = relu_of(sum);
                             store(pixel + static_cast<long>(r) * out.stride + half * LANES, sum);
                           });
        });
      }
    });
  }
};
