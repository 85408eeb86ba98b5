// Winograd's minimal filtering: m×m outputs of an r×r convolution from side×side products.
//
// The transforms are Toom and Cook's at the points 0, ±p, ±q and infinity. With p = 2/3 and q = 3/2 the
// rounding error in float32 is half that of the usual ±1, ±2.
#pragma once

#include "simd.hpp"

// One dimension of the transforms of a tile: data (side values to side), outputs (side to m), gradients
// (of outputs to those of the sums, m to side: the transpose).
template <int M, int R>
struct Tile;

constexpr float P = 2.f / 3, Q = 3.f / 2, P2 = P * P, Q2 = Q * Q, P3 = P2 * P, Q3 = Q2 * Q;

struct SixPoints {
  static constexpr int side = 6;

  // Row i of the weights' transform: point^j over the product of the point's distances to the others.
  static double filter(int i, int j, int r) {
    if (i == 5) return j == r - 1;
    const double p = 2. / 3, q = 3. / 2;
    const double point[] = {0, p, -p, q, -q};
    double value = 1;
    for (int other = 0; other < 5; other++)
      if (other != i) value /= point[i] - point[other];
    for (int power = 0; power < j; power++) value *= point[i];
    return value;
  }

  static INLINE void data(const Vec d[6], Vec v[6]) {
    const Vec even_p = fused(-Q2, d[2], d[4]), odd_p = fused(-Q2, d[1], d[3]);
    const Vec even_q = fused(-P2, d[2], d[4]), odd_q = fused(-P2, d[1], d[3]);
    v[0] = fused(P2 * Q2, d[0], fused(-(P2 + Q2), d[2], d[4]));
    v[1] = fused(P, odd_p, even_p);
    v[2] = fused(-P, odd_p, even_p);
    v[3] = fused(Q, odd_q, even_q);
    v[4] = fused(-Q, odd_q, even_q);
    v[5] = fused(P2 * Q2, d[1], fused(-(P2 + Q2), d[3], d[5]));
  }
};

template <>
struct Tile<4, 3> : SixPoints {
  static constexpr int m = 4, r = 3;

  static INLINE void outputs(const Vec v[6], Vec y[4]) {
    const Vec even_p = v[1] + v[2], odd_p = v[1] - v[2];
    const Vec even_q = v[3] + v[4], odd_q = v[3] - v[4];
    y[0] = v[0] + even_p + even_q;
    y[1] = fused(P, odd_p, Q * odd_q);
    y[2] = fused(P2, even_p, Q2 * even_q);
    y[3] = fused(P3, odd_p, fused(Q3, odd_q, v[5]));
  }

  static INLINE void gradients(const Vec y[4], Vec v[6]) {
    const Vec even_p = fused(P2, y[2], y[0]), odd_p = fused(P3, y[3], P * y[1]);
    const Vec even_q = fused(Q2, y[2], y[0]), odd_q = fused(Q3, y[3], Q * y[1]);
    v[0] = y[0];
    v[1] = even_p + odd_p;
    v[2] = even_p - odd_p;
    v[3] = even_q + odd_q;
    v[4] = even_q - odd_q;
    v[5] = y[3];
  }
};

template <>
struct Tile<2, 5> : SixPoints {
  static constexpr int m = 2, r = 5;

  static INLINE void outputs(const Vec v[6], Vec y[2]) {
    y[0] = v[0] + (v[1] + v[2]) + (v[3] + v[4]);
    y[1] = fused(P, v[1] - v[2], fused(Q, v[3] - v[4], v[5]));
  }

  static INLINE void gradients(const Vec y[2], Vec v[6]) {
    v[0] = y[0];
    v[1] = fused(P, y[1], y[0]);
    v[2] = fused(-P, y[1], y[0]);
    v[3] = fused(Q, y[1], y[0]);
    v[4] = fused(-Q, y[1], y[0]);
    v[5] = y[1];
  }
};

// At the points 0, ±1 and infinity: for maps of two pixels or less.
template <>
struct Tile<2, 3> {
  static constexpr int side = 4, m = 2, r = 3;

  static double filter(int i, int j, int) {
    const double rows[4][3] = {{-1, 0, 0}, {.5, .5, .5}, {.5, -.5, .5}, {0, 0, 1}};
    return rows[i][j];
  }

  static INLINE void data(const Vec d[4], Vec v[4]) {
    v[0] = d[2] - d[0];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }

  static INLINE void outputs(const Vec v[4], Vec y[2]) {
    y[0] = v[0] + v[1] + v[2];
    y[1] = v[1] - v[2] + v[3];
  }

  static INLINE void gradients(const Vec y[2], Vec v[4]) {
    v[0] = y[0];
    v[1] = y[0] + y[1];
    v[2] = y[0] - y[1];
    v[3] = y[1];
  }
};
