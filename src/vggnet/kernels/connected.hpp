// Fully connected layers: the weights are read once, as they lie in PyTorch's memory.
#pragma once

#include "product.hpp"
#include "threads.hpp"

// Weights as they are stored: float32, bfloat16 (the upper half of a float32), int8 with a scale a row.
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

INLINE Vec widened(const float *p) { return load(p); }

INLINE Vec widened(const uint16_t *p) {
#if defined(__AVX2__) && VGGNET_LANES == 8
  return (Vec)(Whole)_mm256_slli_epi32(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), 16);
#else
  typedef uint16_t Half __attribute__((vector_size(2 * LANES)));
  Half half;
  std::memcpy(&half, p, sizeof half);
  return (Vec)(__builtin_convertvector(half, Whole) << 16);
#endif
}

INLINE Vec widened(const int8_t *p) {
  // GCC takes the conversion apart into single values unless it is told the instruction.
#if defined(__AVX512F__) && VGGNET_LANES == 16
  const Whole whole =
      (Whole)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
#elif defined(__AVX2__) && VGGNET_LANES == 8
  const Whole whole =
      (Whole)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)));
#else
  typedef int8_t Byte __attribute__((vector_size(LANES)));
  Byte bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  const Whole whole = __builtin_convertvector(bytes, Whole);
#endif
  return __builtin_convertvector(whole, Vec);
}

INLINE float single(float x) { return x; }
INLINE float single(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
INLINE float single(int8_t x) { return x; }

INLINE float sum_of(Vec v) {
  float parts[LANES];
  store(parts, v);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

// Dot products of O rows of weights with R rows of inputs, over `n` values, added to `sums`: lane by lane,
// `rest` for what fills no vector. The order of additions does not depend on O and R.
template <int O, int R, typename W>
INLINE void dots(const W *weights, long weights_row, const float *x, long x_row, int n, Vec *sums,
                 float *rest, long sums_row) {
  Vec sum[O][R];
#pragma GCC unroll 4
  for (int o = 0; o < O; o++)
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sum[o][r] = sums[r * sums_row + o];
  int k = 0;
  for (; k + LANES <= n; k += LANES) {
    Vec value[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) value[r] = load(x + r * x_row + k);
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) {
      const Vec w = widened(weights + o * weights_row + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sum[o][r] = fused(w, value[r], sum[o][r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int o = 0; o < O; o++) {
      sums[r * sums_row + o] = sum[o][r];
      for (int i = k; i < n; i++)
        rest[r * sums_row + o] += single(weights[o * weights_row + i]) * x[r * x_row + i];
    }
}

template <typename W>
struct Connected {
  const W *weights;     // outputs × inputs
  const float *scales;  // one an output, for int8
  const float *bias;
  const float *x;  // rows × inputs, `x_row` floats apart
  float *y;        // rows × outputs, `y_row` floats apart
  const int rows, inputs, outputs;
  const long x_row, y_row;
  const bool relu;

  // SLICE values of a row are taken at a time, so that each row of weights is read in runs of 16 KiB.
  static constexpr int SLICE = 4096, OUTPUTS = 16, MOST = 48;

  void run(Team &team) const {
    team.share((outputs + OUTPUTS - 1) / OUTPUTS, [&](int item) {
      const int first = item * OUTPUTS, count = std::min(OUTPUTS, outputs - first);
      for (int r = 0; r < rows; r += MOST) some_rows(first, count, r, std::min(MOST, rows - r));
    });
  }

  void some_rows(int first, int count, int row, int many) const {
    Vec sums[MOST * OUTPUTS];
    float rest[MOST * OUTPUTS];
    std::fill(sums, sums + many * OUTPUTS, Vec{});
    std::fill(rest, rest + many * OUTPUTS, 0.f);
    for (int k = 0; k < inputs; k += SLICE)
      for (int o = 0; o < count; o += 4)
        with_constant<4>(std::min(4, count - o), [&](auto some_outputs) {
          for (int r = 0; r < many; r += 3)
            with_constant<3>(std::min(3, many - r), [&](auto some_inputs) {
              dots<some_outputs, some_inputs>(weights + static_cast<long>(first + o) * inputs + k, inputs,
                                              x + (row + r) * x_row + k, x_row,
                                              std::min(SLICE, inputs - k), sums + r * OUTPUTS + o,
                                              rest + r * OUTPUTS + o, OUTPUTS);
            });
        });
    for (int r = 0; r < many; r++)
      for (int o = 0; o < count; o++) {
        float value = sum_of(sums[r * OUTPUTS + o]) + rest[r * OUTPUTS + o];
        if (scales) value *= scales[first + o];
        if (bias) value += bias[first + o];
        y[(row + r) * y_row + first + o] = relu && value < 0 ? 0 : value;
      }
  }
};
