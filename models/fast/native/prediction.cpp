// The operations between the convolutions in prediction. Maps are channels_last, (B, H, W, C) in memory.
//
// srs_attend is the end of a residual block, in three passes over its map: relu(S(z) * z + shortcut) with z = C(y) * y.
// C and S are the weights of the channel and the spatial attention (models/blocks.py); y is the second convolution's
// result, float or bfloat16, all else is float. torch needs some forty operations, ten of which go over the whole map.
//
// srs_join is the beginning of a node: maps side by side, one of which is upsampled on the way.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

using namespace srs;

namespace {

constexpr int SIZE = 7, RADIUS = SIZE / 2;  // of the spatial attention's kernel

// 1 / (1 + exp(-x)), exp by its polynomial on +-log(2) / 2 as in the Cephes library.
inline Floats sigmoid(Floats x) {
    const Floats zero = {}, limit = zero + 87;
    x = x > limit ? limit : x < -limit ? -limit : x;
    const Integers power = __builtin_convertvector(x * -1.44269504f + (x < 0 ? zero + 0.5f : zero - 0.5f), Integers);
    const Floats n = __builtin_convertvector(power, Floats), r = -x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return 1 / (1 + p * (Floats)((power + 127) << 23));
}

// What a block's attentions are told, and where they put the result.
struct Attention {
    const float *shortcut, *reduce, *expand, *kernel;  // maps like y; (HIDDEN, C), (C, HIDDEN), (2, SIZE, SIZE)
    float* out;                                        // float, may be missing
    uint16_t* out_bf16;                                // the same in bfloat16, may be missing
    long batch, height, width, hidden;
};

// The passes over a map of C channels.
template <class T, int C>
struct Map : Layout<C> {
    using Layout<C>::PACK;
    using Layout<C>::VECTORS;
    using Layout<C>::WIDE;
    using Layout<C>::COUNT;

    // Each lane's sum and maximum over the vectors of rows `first` to `last`: WIDE numbers each.
    static void pool_rows(const T* y, long first, long last, long width, float* total, float* most) {
        Floats sums[VECTORS], maxima[VECTORS];
        for (int v = 0; v < VECTORS; v++) sums[v] = Floats{}, maxima[v] = Floats{} - INFINITY;
        for (long row = first; row < last; row++) {
            Floats in_row[VECTORS] = {};  // apart, so that no sum is so long that it rounds badly
            for (long x = 0; x < width; x += PACK) {
                const T* at = y + (row * width + x) * C;
#pragma GCC unroll 16
                for (int v = 0; v < VECTORS; v++) {
                    const Floats value = load(at + v * LANES);
                    in_row[v] += value;
                    maxima[v] = larger(value, maxima[v]);
                }
            }
            for (int v = 0; v < VECTORS; v++) sums[v] += in_row[v];
        }
        for (int v = 0; v < VECTORS; v++) store(total + v * LANES, sums[v]), store(most + v * LANES, maxima[v]);
    }

    // Each pixel's sum and maximum over its weighted channels, of one row.
    static void pool_channels(const T* row, long width, const float* weights, float* total, float* most) {
        for (long next = 0; next < width; next += LANES) {
            const long x = std::min(next, width - LANES);  // the last ones overlap if need be
            Floats sums[COUNT], maxima[COUNT];
#pragma GCC unroll 16
            for (int i = 0; i < COUNT; i++) {
                const T* at = row + (x + i * PACK) * C;
                sums[i] = maxima[i] = load(at) * load(weights);
#pragma GCC unroll 16
                for (int v = 1; v < VECTORS; v++) {
                    const Floats value = load(at + v * LANES) * load(weights + v * LANES);
                    sums[i] += value;
                    maxima[i] = larger(value, maxima[i]);
                }
            }
            store(total + x, combine_neighbours<COUNT, sum>(sums));
            store(most + x, combine_neighbours<COUNT, larger>(maxima));
        }
    }

    // relu(pixels * weights * y + shortcut), of one row.
    static void finish(const T* row, long width, const float* weights, const float* pixels, const float* shortcut,
                       float* out, uint16_t* out_bf16) {
        for (long x = 0; x < width; x += PACK) {
            const Floats pixel = Layout<C>::spread(pixels + x);
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) {
                const long at = x * C + v * LANES;
                const Floats value = load(row + at) * load(weights + v * LANES) * pixel + load(shortcut + at);
                const Floats positive = value < 0 ? Floats{} : value;
                if (out) store(out + at, positive);
                if (out_bf16) store(out_bf16 + at, positive);
            }
        }
    }

    // The channel attention's weights, WIDE of them, from what each thread has pooled.
    static void weigh(const Attention& a, float* pooled, int threads, float* weights) {
        float *total = pooled, *most = pooled + WIDE;
        for (int part = 1; part < threads * PACK; part++) {
            const float* other = pooled + part / PACK * 2 * WIDE + part % PACK * C;
            for (int c = 0; c < C; c++) total[c] += other[c], most[c] = std::max(most[c], other[WIDE + c]);
        }
        float hidden[C];
        for (long h = 0; h < a.hidden; h++) {
            float average = 0, maximum = 0;
#pragma omp simd reduction(+ : average, maximum)
            for (int c = 0; c < C; c++) {
                average += a.reduce[h * C + c] * total[c];
                maximum += a.reduce[h * C + c] * most[c];
            }
            average /= a.height * a.width;
            hidden[h] = (average < 0 ? 0 : average) + (maximum < 0 ? 0 : maximum);
        }
        for (int c = 0; c < WIDE; c++) {
            float weight = 0;
            for (long h = 0; h < a.hidden; h++) weight += a.expand[c % C * a.hidden + h] * hidden[h];
            weights[c] = weight;
        }
        for (int c = 0; c < WIDE; c += LANES) store(weights + c, sigmoid(load(weights + c)));
    }
};

// The spatial attention's weights of one row, from the padded sums and maxima around it, `plane` numbers apart.
void weigh_row(const float* pooled, long plane, const float* kernel, long width, float* weights) {
    for (long next = 0; next < width; next += LANES) {
        const long x = std::min(next, width - LANES);
        Floats sums[SIZE] = {};  // several, because an addition has to wait for the one before
        for (int map = 0; map < 2; map++)
            for (int dy = 0; dy < SIZE; dy++)
#pragma GCC unroll 7
                for (int dx = 0; dx < SIZE; dx++)
                    sums[dx] += kernel[(map * SIZE + dy) * SIZE + dx] *
                                load(pooled + map * plane + dy * (width + 2 * RADIUS) + x + dx);
#pragma GCC unroll 7
        for (int dx = 1; dx < SIZE; dx++) sums[0] += sums[dx];
        store(weights + x, sigmoid(sums[0]));
    }
}

long plane_of(long height, long width) { return (height + 2 * RADIUS) * (width + 2 * RADIUS); }

template <class T, int C>
void attend(const T* y, const Attention& a, float* scratch) {
    using Y = Map<T, C>;
    const long image = a.height * a.width * C, line = a.width * C;
    const long stride = a.width + 2 * RADIUS, plane = plane_of(a.height, a.width);
    float *weights = scratch, *totals = weights + Y::WIDE, *maxima = totals + plane, *pixels = maxima + plane;
#pragma omp parallel
    {
        const int thread = omp_get_thread_num(), threads = omp_get_num_threads();
        const long first = a.height * thread / threads, last = a.height * (thread + 1) / threads;
        float *own_pixels = pixels + thread * a.width, *pooled = pixels + threads * a.width;
        for (long b = 0; b < a.batch; b++) {
            const T* map = y + b * image;
            float* own = pooled + thread * 2 * Y::WIDE;
            Y::pool_rows(map, first, last, a.width, own, own + Y::WIDE);
#pragma omp barrier
#pragma omp single
            {
                Y::weigh(a, pooled, threads, weights);
                std::memset(totals, 0, 2 * plane * sizeof(float));  // for the padding
            }
            for (long row = first; row < last; row++) {
                const long at = (row + RADIUS) * stride + RADIUS;
                Y::pool_channels(map + row * line, a.width, weights, totals + at, maxima + at);
            }
#pragma omp barrier
            for (long row = first; row < last; row++) {
                const long at = b * image + row * line;
                weigh_row(totals + row * stride, plane, a.kernel, a.width, own_pixels);
                Y::finish(y + at, a.width, weights, own_pixels, a.shortcut + at, a.out ? a.out + at : nullptr,
                          a.out_bf16 ? a.out_bf16 + at : nullptr);
            }
        }
    }
}

// One of the maps that are joined.
template <class T>
struct Part {
    const T* map;
    long channels, before;  // those of the parts before it
};

// Row `y` of a part to its place among all `channels`; rows are counted through the batch.
template <class T>
void copy_row(const Part<T>& part, long y, long width, long channels, T* out) {
    const T* row = part.map + y * width * part.channels;
    for (long x = 0; x < width; x++)
        std::memcpy(out + x * channels + part.before, row + x * part.channels, part.channels * sizeof(T));
}

// Row `y` of `height` of a map of half the height and width, bilinear with the corners aligned; `line` is a row of it.
template <class T>
void upsample_row(const Part<T>& part, long image, long y, long height, long width, long channels, float* line, T* out) {
    const long low = height / 2, narrow = width / 2, C = part.channels;
    const float down = height > 1 ? (float)(low - 1) / (height - 1) * y : 0;
    const long above = (long)down, below = std::min(above + 1, low - 1);
    const T *first = part.map + (image * low + above) * narrow * C, *second = part.map + (image * low + below) * narrow * C;
    const Floats share = Floats{} + (down - above);
    for (long i = 0; i < narrow * C; i += LANES)
        store(line + i, load(first + i) * (1 - share) + load(second + i) * share);
    const float step = width > 1 ? (float)(narrow - 1) / (width - 1) : 0;
    for (long x = 0; x < width; x++) {
        const float along = step * x;
        const long left = (long)along, right = std::min(left + 1, narrow - 1);
        const Floats weight = Floats{} + (along - left);
        for (long c = 0; c < C; c += LANES)
            store(out + x * channels + part.before + c,
                  load(line + left * C + c) * (1 - weight) + load(line + right * C + c) * weight);
    }
}

template <class T>
void join(const std::vector<Part<T>>& parts, long upsampled, T* out, long batch, long height, long width) {
    const long channels = parts.back().before + parts.back().channels;
#pragma omp parallel
    {
        std::vector<float> line(width / 2 * parts[upsampled].channels);
#pragma omp for schedule(static)
        for (long y = 0; y < batch * height; y++) {
            T* row = out + y * width * channels;
            for (long i = 0; i < (long)parts.size(); i++) {
                if (i == upsampled) {
                    upsample_row(parts[i], y / height, y % height, height, width, channels, line.data(), row);
                } else {
                    copy_row(parts[i], y, width, channels, row);
                }
            }
        }
    }
}

template <class T>
void join(const void* const* maps, const long* widths, long count, long upsampled, void* out, long batch, long height,
          long width) {
    std::vector<Part<T>> parts;
    for (long i = 0, before = 0; i < count; before += widths[i++])
        parts.push_back({static_cast<const T*>(maps[i]), widths[i], before});
    join(parts, upsampled, static_cast<T*>(out), batch, height, width);
}

}  // namespace

// The channels of `count` maps one after the other, all float or all bfloat16; (B, `height`, `width`) is that of the
// result. The one numbered `upsampled` has half the height and width, and a number of channels that LANES divides.
extern "C" void srs_join(bool bfloat16, const void* const* maps, const long* channels, long count, long upsampled,
                         void* out, long batch, long height, long width) {
    if (bfloat16) {
        join<uint16_t>(maps, channels, count, upsampled, out, batch, height, width);
    } else {
        join<float>(maps, channels, count, upsampled, out, batch, height, width);
    }
}

// How many floats `srs_attend` wants as `scratch`.
extern "C" long srs_scratch(long height, long width, long channels) {
    const long wide = std::max<long>(channels, LANES);
    return wide + 2 * plane_of(height, width) + omp_get_max_threads() * (width + 2 * wide);
}

// False, and nothing done, for a number of channels that it does not know. `width` is even and at least LANES.
extern "C" bool srs_attend(bool bfloat16, const void* y, const float* shortcut, float* out, uint16_t* out_bf16,
                           const float* reduce, const float* expand, const float* kernel, float* scratch, long batch,
                           long height, long width, long channels, long hidden) {
    const Attention a = {shortcut, reduce, expand, kernel, out, out_bf16, batch, height, width, hidden};
    return by_channels(channels, [&]<int C>() {
        if (bfloat16) {
            attend<uint16_t, C>(static_cast<const uint16_t*>(y), a, scratch);
        } else {
            attend<float, C>(static_cast<const float*>(y), a, scratch);
        }
    });
}
