// The matrix product that everything else is made of.
#pragma once

#include <algorithm>

#include "simd.hpp"

// A micro-tile: R rows of A times a panel of COLUMNS columns of B, into R rows of C.
//
// A's element (row, k) is a[row * row_step + k * step]. After `n` values of k comes the next of
// `segments`, `segment_step` further on in A: a convolution's window has one a row. B's panel holds
// segments·n rows of COLUMNS values, `panel_step` apart. `finish(sum, row, column)` says what becomes of
// each vector of sums; `meanwhile(k)` is called with each step.
template <int R, typename Finish, typename Meanwhile>
INLINE void micro_tile(const float *a, long row_step, long step, long segment_step, int n,
                       int segments, const float *b, long panel_step, Finish &&finish,
                       Meanwhile &&meanwhile) {
  Vec sum[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = Vec{};
  for (int s = 0; s < segments; s++, a += segment_step) {
    const float *value = a;
    for (int k = 0; k < n; k++, value += step, b += panel_step) {
      const Vec left = load(b), right = load(b + LANES);
      meanwhile(k);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const Vec x = all(value[r * row_step]);
        sum[r][0] = fused(x, left, sum[r][0]);
        sum[r][1] = fused(x, right, sum[r][1]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
    finish(sum[r][0], r, 0);
    finish(sum[r][1], r, 1);
  }
}

template <int R, typename Finish>
INLINE void micro_tile(const float *a, long row_step, long step, long segment_step, int n,
                       int segments, const float *b, long panel_step, Finish &&finish) {
  micro_tile<R>(a, row_step, step, segment_step, n, segments, b, panel_step, finish, [](int) {});
}

// Rows in blocks of nearly equal size, none above ROWS: a block of one row would cost nearly as much as a
// full one. `block(size, first)` gets the size as a compile-time constant.
template <int R = ROWS, typename Block>
INLINE void with_constant(int size, Block &&block) {
  if constexpr (R > 0) {
    if (size == R) block(std::integral_constant<int, R>{});
    else with_constant<R - 1>(size, block);
  }
}

template <typename Block>
INLINE void in_blocks(int rows, Block &&block) {
  const int blocks = (rows + ROWS - 1) / ROWS;
  for (int i = 0, first = 0; i < blocks; i++) {
    const int size = rows / blocks + (i < rows % blocks);
    with_constant(size, [&](auto constant) { block(constant, first); });
    first += size;
  }
}
