// Backward of what lies between the convolutions, and of fully connected layers.
#pragma once

#include "convolution.hpp"

// The gradient before a ReLU, and before 2×2 max-pooling after it, from the ReLU's output `y`: of four
// pixels the first largest gets it, as in PyTorch.
struct Rectified {
  const Map y;            // before the pooling
  const float *gradient;  // after it, as many channels
  float *into;            // as y
  const bool pool;

  void run(Team &team) const {
    const long row = static_cast<long>(y.width) * y.stride;
    if (!pool) {
      team.share(y.n * y.height, [&](int i) {
        for (long k = i * row; k < (i + 1) * row; k += LANES)
          store(into + k, load(y.values + k) > Vec{} ? load(gradient + k) : Vec{});
      });
      return;
    }
    const int high = y.height / 2, wide = y.width / 2;
    const int rows = (y.height + 1) / 2;
    team.share(y.n * rows, [&](int i) {
      const int n = i / rows, half = i % rows;
      const long at = (static_cast<long>(n) * y.height + 2 * half) * row;
      if (half == high) {  // an odd last row is in no pool
        std::fill(into + at, into + at + row, 0.f);
        return;
      }
      if (y.width % 2)
        for (int line = 0; line < 2; line++)
          std::fill(into + at + line * row + row - y.stride, into + at + (line + 1) * row, 0.f);
      for (int x = 0; x < wide; x++)
        for (int c = 0; c < y.stride; c += LANES) {
          const long steps[4] = {0, y.stride, row, row + y.stride};
          const float *from = y.values + at + 2L * x * y.stride + c;
          float *to = into + at + 2L * x * y.stride + c;
          const Vec given =
              load(gradient + ((static_cast<long>(n) * high + half) * wide + x) * y.stride + c);
          Vec value[4], largest = load(from);
          for (int j = 0; j < 4; j++) value[j] = load(from + steps[j]);
          for (int j = 1; j < 4; j++) largest = larger(largest, value[j]);
          Vec left = largest > Vec{} ? given : Vec{};  // what nobody has got yet
          for (int j = 0; j < 4; j++) {
            const Vec got = value[j] == largest ? left : Vec{};
            left = value[j] == largest ? Vec{} : left;
            store(to + steps[j], got);
          }
        }
    });
  }
};

// Of y = x·weightsᵀ, for few rows: the weights, or their gradient, pass through memory once.
struct ConnectedGradients {
  const float *gradient;  // of y: rows × outputs
  const int rows, inputs, outputs;

  static constexpr int SLICE = 1024, SOME = 8;

  // Of x, rows × inputs: some rows and a slice of the inputs at a time, which stay in the cache.
  void of_x(Team &team, const float *weights, float *into) const {
    const int slices = (inputs + SLICE - 1) / SLICE;
    team.share(slices, [&](int i) {
      const int first = i * SLICE, n = std::min(SLICE, inputs - first);
      for (int r = 0; r < rows; r += SOME) {
        const int some = std::min(SOME, rows - r);
        float sums[SOME][SLICE] = {};
        int o = 0;
        for (; o + 4 <= outputs; o += 4) add<4>(weights, first, n, r, some, o, sums);
        for (; o < outputs; o++) add<1>(weights, first, n, r, some, o, sums);
        for (int s = 0; s < some; s++)
          std::copy(sums[s], sums[s] + n, into + static_cast<long>(r + s) * inputs + first);
      }
    });
  }

  template <int O>
  INLINE void add(const float *weights, int first, int n, int row, int some, int o,
                  float (*sums)[SLICE]) const {
    const float *w = weights + static_cast<long>(o) * inputs + first;
    int k = 0;
    for (; k + LANES <= n; k += LANES) {
      Vec value[O];
#pragma GCC unroll 4
      for (int j = 0; j < O; j++) value[j] = load(w + static_cast<long>(j) * inputs + k);
      for (int s = 0; s < some; s++) {
        Vec sum = load(sums[s] + k);
#pragma GCC unroll 4
        for (int j = 0; j < O; j++)
          sum = fused(gradient[static_cast<long>(row + s) * outputs + o + j], value[j], sum);
        store(sums[s] + k, sum);
      }
    }
    for (; k < n; k++)
      for (int s = 0; s < some; s++)
        for (int j = 0; j < O; j++)
          sums[s][k] += gradient[static_cast<long>(row + s) * outputs + o + j] *
                        w[static_cast<long>(j) * inputs + k];
  }

  // Of the weights, outputs × inputs.
  void of_weights(Team &team, const float *x, float *into) const {
    team.share((outputs + 3) / 4, [&](int i) {
      const int o = 4 * i;
      with_constant<4>(std::min(4, outputs - o), [&](auto some) {
        int k = 0;
        for (; k + LANES <= inputs; k += LANES) {
          Vec sum[some];
#pragma GCC unroll 4
          for (int j = 0; j < some; j++) sum[j] = Vec{};
          for (int r = 0; r < rows; r++) {
            const Vec value = load(x + static_cast<long>(r) * inputs + k);
#pragma GCC unroll 4
            for (int j = 0; j < some; j++)
              sum[j] = fused(gradient[static_cast<long>(r) * outputs + o + j], value, sum[j]);
          }
#pragma GCC unroll 4
          for (int j = 0; j < some; j++) store(into + static_cast<long>(o + j) * inputs + k, sum[j]);
        }
        for (; k < inputs; k++)
          for (int j = 0; j < some; j++) {
            float sum = 0;
            for (int r = 0; r < rows; r++)
              sum += gradient[static_cast<long>(r) * outputs + o + j] * x[static_cast<long>(r) * inputs + k];
            into[static_cast<long>(o + j) * inputs + k] = sum;
          }
      });
    });
  }
};
