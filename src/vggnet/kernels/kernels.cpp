// What Python calls: one function a layer, its work shared by the pool's threads. Python has checked the
// shapes and owns the memory; nothing is allocated here, and nothing can fail.

#include <cmath>

#include "connected.hpp"
#include "convolution.hpp"
#include "gradients.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Which tile a Winograd layer is computed by: outputs a side and the convolution's kernel, as 43, 23, 25.
template <typename Use>
static void with_tile(int tile, Use &&use) {
  if (tile == 43) use(Tile<4, 3>{});
  if (tile == 23) use(Tile<2, 3>{});
  if (tile == 25) use(Tile<2, 5>{});
}

template <typename Work>
static void share(int threads, Work &&work) {
  the_pool().run(threads, [&](Team &team, int thread) { work(team, thread); });
}

EXPORT void vggnet_sizes(int *lanes, int *columns, int *group) {
  *lanes = LANES;
  *columns = COLUMNS;
  *group = GROUP;
}

EXPORT long vggnet_winograd_weights(int tile, int in, int out) {
  long floats = 0;
  with_tile(tile, [&](auto t) { floats = transformed_floats<decltype(t)>(in, out); });
  return floats;
}

EXPORT void vggnet_transform_weights(int threads, int tile, const float *w, long out_step, long in_step,
                                     long row_step, long column_step, int in, int out, float *into) {
  with_tile(tile, [&](auto t) {
    share(threads, [&](Team &team, int) {
      transform_weights<decltype(t)>(team, w, out_step, in_step, row_step, column_step, in, out, into);
    });
  });
}

// Floats of memory that `vggnet_winograd` wants for its work.
EXPORT long vggnet_winograd_memory(int threads, int tile, int channels, int most, int band) {
  long floats = 0;
  with_tile(tile, [&](auto t) {
    using W = Winograd<decltype(t)>;
    floats = most ? W::data_floats(most, channels) + threads * W::sums_floats(band)
                  : threads * (W::data_floats(band, channels) + W::sums_floats(band));
  });
  return floats + rounded(channels, 16);
}

// `most` is 0 for bands of `band` tiles, or how many tiles' data are transformed together before groups of
// output channels are shared.
EXPORT void vggnet_winograd(int threads, int tile, const float *in, int n, int height, int width,
                            int channels, int in_stride, const float *weights, const float *bias,
                            float *out, int out_channels, int out_stride, int relu, int pool, int most,
                            int band, float *memory) {
  with_tile(tile, [&](auto t) {
    const int part = pool ? 2 : 1;
    const long before = rounded(channels, 16);
    std::fill(memory, memory + before, 0.f);
    const Winograd<decltype(t)> layer{
        {const_cast<float *>(in), n, height, width, channels, in_stride},
        {out, n, height / part, width / part, out_channels, out_stride},
        weights, bias, memory, relu != 0, pool != 0};
    share(threads, [&](Team &team, int thread) {
      if (most) layer.in_groups(team, thread, most, band, memory + before);
      else layer.in_bands(team, thread, band, memory + before);
    });
  });
}

// Floats of memory that `vggnet_weight_gradient` wants for its work.
EXPORT long vggnet_weight_gradient_memory(int tile, int channels, int out_stride, int most) {
  long floats = 0;
  with_tile(tile, [&](auto t) {
    floats = WeightGradient<decltype(t)>::floats(most, channels, out_stride);
  });
  return floats + rounded(std::max(channels, out_stride), 16);
}

// From a layer's input and the gradient of its output (before any pooling); `most` tiles at a time.
EXPORT void vggnet_weight_gradient(int threads, int tile, const float *in, int n, int height, int width,
                                   int channels, int in_stride, const float *gradient, int out_channels,
                                   int out_stride, float *into, long out_step, long in_step,
                                   long row_step, long column_step, int most, float *memory) {
  with_tile(tile, [&](auto t) {
    const long before = rounded(std::max(channels, out_stride), 16);
    std::fill(memory, memory + before, 0.f);
    const WeightGradient<decltype(t)> work{
        {{const_cast<float *>(in), n, height, width, channels, in_stride},
         {const_cast<float *>(gradient), n, height, width, out_channels, out_stride},
         nullptr, nullptr, memory, false, false},
        most, memory + before};
    share(threads, [&](Team &team, int) {
      work.run(team, into, out_step, in_step, row_step, column_step);
    });
  });
}

EXPORT void vggnet_direct(int threads, const float *in, int n, int height, int width, int in_stride,
                          const float *weights, const float *bias, float *out, int out_stride, int kernel,
                          int relu) {
  const Direct layer{{const_cast<float *>(in), n, height, width, in_stride, in_stride},
                     {out, n, height - kernel + 1, width - kernel + 1, out_stride, out_stride},
                     weights, bias, kernel, relu != 0};
  share(threads, [&](Team &team, int) { layer.run(team); });
}

// Images to float32 less their mean, channels together, in a border of zeros.
template <typename Pixel>
static void prepare(int threads, const Pixel *images, long image_step, long channel_step, long row_step,
                    long column_step, int n, int channels, int height, int width, const float *mean,
                    int border, float *out) {
  const int high = height + 2 * border, wide = width + 2 * border;
  share(threads, [&](Team &team, int) {
    team.share(n * high, [&](int i) {
      const int y = i % high - border;
      float *row = out + static_cast<long>(i) * wide * channels;
      if (y < 0 || y >= height) {
        std::fill(row, row + static_cast<long>(wide) * channels, 0.f);
        return;
      }
      std::fill(row, row + border * channels, 0.f);
      std::fill(row + static_cast<long>(border + width) * channels,
                row + static_cast<long>(wide) * channels, 0.f);
      for (int c = 0; c < channels; c++) {
        const Pixel *from = images + i / high * image_step + c * channel_step + y * row_step;
        float *to = row + border * channels + c;
        for (int x = 0; x < width; x++)
          to[static_cast<long>(x) * channels] = static_cast<float>(from[x * column_step]) - mean[c];
      }
    });
  });
}

EXPORT void vggnet_prepare(int threads, const void *images, int bytes, long image_step, long channel_step,
                           long row_step, long column_step, int n, int channels, int height, int width,
                           const float *mean, int border, float *out) {
  if (bytes == 1)
    prepare(threads, static_cast<const uint8_t *>(images), image_step, channel_step, row_step,
            column_step, n, channels, height, width, mean, border, out);
  else
    prepare(threads, static_cast<const float *>(images), image_step, channel_step, row_step, column_step,
            n, channels, height, width, mean, border, out);
}

// `n` pieces of `floats` values, a multiple of LANES.
EXPORT void vggnet_relu(int threads, const float *in, float *out, int n, long floats) {
  share(threads, [&](Team &team, int) {
    team.share(n, [&](int i) {
      for (long k = i * floats; k < (i + 1) * floats; k += LANES)
        store(out + k, relu_of(load(in + k)));
    });
  });
}

// 2×2 max-pooling of stride 2; `stride` floats a pixel.
EXPORT void vggnet_pool(int threads, const float *in, int n, int height, int width, int stride,
                        float *out) {
  const int high = height / 2, wide = width / 2;
  share(threads, [&](Team &team, int) {
    team.share(n * high, [&](int i) {
      const long row = static_cast<long>(width) * stride;
      const float *top = in + (static_cast<long>(i / high) * height + i % high * 2) * row;
      float *to = out + static_cast<long>(i) * wide * stride;
      for (int x = 0; x < wide; x++, top += 2 * stride, to += stride)
        for (int c = 0; c < stride; c += LANES)
          store(to + c, larger(larger(load(top + c), load(top + stride + c)),
                               larger(load(top + row + c), load(top + row + stride + c))));
    });
  });
}

// Local response normalisation over `size` neighbouring channels: x / (k + alpha·sum of squares)^beta.
EXPORT void vggnet_lrn(int threads, const float *in, int rows, int pixels, int channels, int stride,
                       int size, float alpha, float beta, float k, float *out) {
  share(threads, [&](Team &team, int) {
    team.share(rows, [&](int i) {
      for (int x = 0; x < pixels; x++) {
        const float *from = in + (static_cast<long>(i) * pixels + x) * stride;
        float *to = out + (static_cast<long>(i) * pixels + x) * stride;
        for (int c = 0; c < channels; c++) {
          float sum = 0;
          for (int j = std::max(0, c - size / 2); j <= std::min(channels - 1, c + size / 2); j++)
            sum += from[j] * from[j];
          const float base = k + alpha * sum;
          to[c] = beta == .75f ? from[c] / std::sqrt(base * std::sqrt(base))
                               : from[c] * std::pow(base, -beta);
        }
        for (int c = channels; c < stride; c++) to[c] = 0;
      }
    });
  });
}

// Every kernel×kernel window of a map as a row in PyTorch's order: channel, row, column.
EXPORT void vggnet_windows(int threads, const float *in, int n, int height, int width, int channels,
                           int stride, int kernel, float *out) {
  const int high = height - kernel + 1, wide = width - kernel + 1;
  const long length = static_cast<long>(kernel) * kernel * channels;
  share(threads, [&](Team &team, int) {
    team.share(n * high * wide, [&](int i) {
      const int image = i / (high * wide), y = i / wide % high, x = i % wide;
      float *to = out + i * length;
      for (int dy = 0; dy < kernel; dy++)
        for (int dx = 0; dx < kernel; dx++) {
          const float *from =
              in + ((static_cast<long>(image) * height + y + dy) * width + x + dx) * stride;
          for (int c = 0; c < channels; c++) to[(static_cast<long>(c) * kernel + dy) * kernel + dx] = from[c];
        }
    });
  });
}

// Weights of 4 bytes are float32, of 2 bfloat16, of 1 int8 with a scale an output.
EXPORT void vggnet_connected(int threads, const void *weights, int bytes, const float *scales,
                             const float *bias, const float *x, long x_row, int rows, int inputs,
                             int outputs, float *y, long y_row, int relu) {
  const auto run = [&](auto pointer) {
    const Connected<std::remove_const_t<std::remove_pointer_t<decltype(pointer)>>> layer{
        pointer, scales, bias, x, y, rows, inputs, outputs, x_row, y_row, relu != 0};
    share(threads, [&](Team &team, int) { layer.run(team); });
  };
  if (bytes == 4) run(static_cast<const float *>(weights));
  else if (bytes == 2) run(static_cast<const uint16_t *>(weights));
  else run(static_cast<const int8_t *>(weights));
}

// The gradient before a ReLU, or before a ReLU and the pooling after it, from the ReLU's output.
EXPORT void vggnet_rectified(int threads, const float *y, int n, int height, int width, int stride,
                             const float *gradient, int pool, float *into) {
  const Rectified work{{const_cast<float *>(y), n, height, width, stride, stride}, gradient, into, pool != 0};
  share(threads, [&](Team &team, int) { work.run(team); });
}

// Either gradient may be null where nobody asks for it.
EXPORT void vggnet_connected_gradients(int threads, const float *weights, const float *x,
                                       const float *gradient, int rows, int inputs, int outputs,
                                       float *of_x, float *of_weights) {
  const ConnectedGradients work{gradient, rows, inputs, outputs};
  share(threads, [&](Team &team, int) {
    if (of_x) work.of_x(team, weights, of_x);
    if (of_weights) work.of_weights(team, x, of_weights);
  });
}
