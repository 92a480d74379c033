// The operations between the convolutions of a residual block in training, forwards and backwards: CompiledNorm in
// models/fast/norm_passes.py says what is computed, here are the passes over the maps. x is a convolution's result, of
// which nothing else is kept, and y = (x - mean) * scale + offset its batch norm. All maps of a call are channels_last
// and of one type, float or bfloat16; what is a number for each channel, (C) or (B, C), or for each pixel, (B, H, W),
// is float.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

using namespace srs;

namespace {

struct Shape {
    long batch, pixels;  // of an image

    // An image is summed in so many pieces: the same ones with every number of threads, and none so long that it rounds
    // badly.
    long pieces() const { return std::max(8L, pixels / 1024); }
};

template <int C>
struct Norm {
    typename Layout<C>::Channels mean, scale, offset;

    explicit Norm(const float* numbers) : mean(numbers), scale(numbers + C), offset(numbers + 2 * C) {}
    Floats operator()(Floats x, int v) const { return (x - mean[v]) * scale[v] + offset[v]; }
};

// Calls f(image, first pixel, last pixel, piece) for all pieces of all images, in parallel. Each piece is some times
// LANES pixels, perhaps none.
template <class F>
void for_pieces(Shape shape, const F& f) {
    const long groups = shape.pixels / LANES, pieces = shape.pieces();
#pragma omp parallel for schedule(static)
    for (long piece = 0; piece < shape.batch * pieces; piece++) {
        const long image = piece / pieces, part = piece % pieces;
        const long first = groups * part / pieces * LANES, last = groups * (part + 1) / pieces * LANES;
        f(image, first, last, piece);
    }
}

// Sums of each piece, `numbers` of them, to those of each image: (B, numbers).
void add_pieces(const std::vector<float>& pieces, Shape shape, long numbers, float* sums) {
    for (long b = 0; b < shape.batch; b++) {
        const float* own = &pieces[b * shape.pieces() * numbers];
        for (long i = 0; i < numbers; i++) {
            double total = 0;
            for (long piece = 0; piece < shape.pieces(); piece++) total += own[piece * numbers + i];
            sums[b * numbers + i] = total;
        }
    }
}

template <class T, int C>
struct Passes : Layout<C> {
    using L = Layout<C>;
    using L::COUNT;
    using L::PACK;
    using L::VECTORS;
    using L::WIDE;
    using Channels = typename L::Channels;

    // Of each image and channel: the sum of x, the sum of its squares about that image's mean, and, where `sign` is
    // given, the largest x * sign and its pixel. `moments` is (B, 2, C).
    static void moments(const T* x, Shape shape, const float* sign, float* moments, float* extreme, int32_t* where) {
        struct Piece {
            float count, mean[C], squares[C], extreme[C];
            int32_t where[C];
        };
        std::vector<Piece> pieces(shape.batch * shape.pieces());
        for_pieces(shape, [&](long image, long first, long last, long number) {
            Piece& piece = pieces[number];
            const T* map = x + image * shape.pixels * C;
            piece.count = last - first;
            Floats sums[VECTORS] = {}, squares[VECTORS] = {};
            for (long pixel = first; pixel < last; pixel += PACK)
                for (int v = 0; v < VECTORS; v++) sums[v] += load(map + pixel * C + v * LANES);
            L::gather(sums, piece.mean);
            for (int c = 0; c < C; c++) piece.mean[c] = piece.count ? piece.mean[c] / piece.count : 0;
            const Channels mean(piece.mean);
            for (long pixel = first; pixel < last; pixel += PACK)
                for (int v = 0; v < VECTORS; v++) {
                    const Floats deviation = load(map + pixel * C + v * LANES) - mean[v];
                    squares[v] += deviation * deviation;
                }
            L::gather(squares, piece.squares);
            if (!sign) return;
            const Channels signs(sign);
            for (int v = 0; v < VECTORS; v++) {
                Floats best = Floats{} - INFINITY;
                Integers at = {};
                for (long pixel = first; pixel < last; pixel += PACK) {
                    const Floats value = load(map + pixel * C + v * LANES) * signs[v];
                    const Integers here = Integers{} + (int32_t)pixel;
                    at = value > best ? here : at;
                    best = larger(value, best);
                }
                for (int lane = 0; lane < LANES; lane++) {
                    const int channel = (v * LANES + lane) % C, own = at[lane] + lane / C * (PACK > 1);
                    if (lane >= C && best[lane] <= piece.extreme[channel]) continue;
                    piece.extreme[channel] = best[lane];
                    piece.where[channel] = own;
                }
            }
        });
        for (long b = 0; b < shape.batch; b++)
            for (int c = 0; c < C; c++) {
                const Piece* own = &pieces[b * shape.pieces()];
                double total = 0, squares = 0;
                for (long i = 0; i < shape.pieces(); i++) total += (double)own[i].mean[c] * own[i].count;
                for (long i = 0; i < shape.pieces(); i++) {
                    const double deviation = own[i].mean[c] - total / shape.pixels;
                    squares += own[i].squares[c] + deviation * deviation * own[i].count;
                }
                moments[b * 2 * C + c] = total;
                moments[(b * 2 + 1) * C + c] = squares;
                if (!sign) continue;
                long best = 0;
                for (long i = 1; i < shape.pieces(); i++)
                    if (own[i].count && (!own[best].count || own[i].extreme[c] > own[best].extreme[c])) best = i;
                extreme[b * C + c] = own[best].extreme[c] * sign[c];
                where[b * C + c] = own[best].where[c];
            }
    }

    // relu(y).
    static void norm_relu(const T* x, Shape shape, const float* norm, T* out) {
        const Norm<C> normed(norm);
        for_pieces(shape, [&](long image, long first, long last, long) {
            for (long pixel = first; pixel < last; pixel += PACK)
                for (int v = 0; v < VECTORS; v++) {
                    const long at = (image * shape.pixels + pixel) * C + v * LANES;
                    const Floats y = normed(load(x + at), v);
                    store(out + at, y < 0 ? Floats{} : y);
                }
        });
    }

    // Of the gradient of relu(y), where y is positive: its sum and its sum times (x - mean), (B, 2, C).
    static void norm_relu_sums(const T* x, const T* gradient, Shape shape, const float* norm, float* sums) {
        const Norm<C> normed(norm);
        std::vector<float> pieces(shape.batch * shape.pieces() * 2 * C);
        for_pieces(shape, [&](long image, long first, long last, long piece) {
            Floats plain[VECTORS] = {}, along[VECTORS] = {};
            for (long pixel = first; pixel < last; pixel += PACK)
                for (int v = 0; v < VECTORS; v++) {
                    const long at = (image * shape.pixels + pixel) * C + v * LANES;
                    const Floats value = load(x + at);
                    const Floats kept = normed(value, v) > 0 ? load(gradient + at) : Floats{};
                    plain[v] += kept;
                    along[v] += kept * (value - normed.mean[v]);
                }
            L::gather(plain, &pieces[piece * 2 * C]);
            L::gather(along, &pieces[(piece * 2 + 1) * C]);
        });
        add_pieces(pieces, shape, 2 * C, sums);
    }

    // In place of the gradient of relu(y), that of x: scale * kept + shift + (x - mean) * slope. `linear` is (2, C).
    static void norm_relu_backward(const T* x, T* gradient, Shape shape, const float* norm, const float* linear) {
        const Norm<C> normed(norm);
        const Channels shift(linear), slope(linear + C);
        for_pieces(shape, [&](long image, long first, long last, long) {
            for (long pixel = first; pixel < last; pixel += PACK)
                for (int v = 0; v < VECTORS; v++) {
                    const long at = (image * shape.pixels + pixel) * C + v * LANES;
                    const Floats value = load(x + at);
                    const Floats kept = normed(value, v) > 0 ? load(gradient + at) : Floats{};
                    store(gradient + at, kept * normed.scale[v] + shift[v] + (value - normed.mean[v]) * slope[v]);
                }
        });
    }

    // z = weights * y of one vector.
    struct Weighted {
        Norm<C> norm;
        Channels weights;

        Weighted(const float* norm, const float* weights, long image) : norm(norm), weights(weights + image * C) {}
        Floats operator()(Floats x, int v) const { return norm(x, v) * weights[v]; }
    };

    // Each pixel's mean and maximum over the channels of z.
    static void pool_channels(const T* x, Shape shape, const float* norm, const float* weights, float* average,
                              float* maximum) {
        for_pieces(shape, [&](long image, long first, long last, long) {
            const Weighted weighted(norm, weights, image);
            for (long pixel = first; pixel < last; pixel += LANES) {
                Floats sums[COUNT], maxima[COUNT];
#pragma GCC unroll 16
                for (int i = 0; i < COUNT; i++) {
                    const T* at = x + (image * shape.pixels + pixel + i * PACK) * C;
                    sums[i] = maxima[i] = weighted(load(at), 0);
                    for (int v = 1; v < VECTORS; v++) {
                        const Floats z = weighted(load(at + v * LANES), v);
                        sums[i] += z;
                        maxima[i] = larger(z, maxima[i]);
                    }
                }
                const long at = image * shape.pixels + pixel;
                store(average + at, combine_neighbours<COUNT, sum>(sums) / C);
                store(maximum + at, combine_neighbours<COUNT, larger>(maxima));
            }
        });
    }

    // relu(attention * z + shortcut).
    static void finish(const T* x, Shape shape, const float* norm, const float* weights, const float* attention,
                       const T* shortcut, T* out) {
        for_pieces(shape, [&](long image, long first, long last, long) {
            const Weighted weighted(norm, weights, image);
            for (long pixel = first; pixel < last; pixel += PACK) {
                const long here = image * shape.pixels + pixel;
                const Floats factor = L::spread(attention + here);
                for (int v = 0; v < VECTORS; v++) {
                    const long at = here * C + v * LANES;
                    const Floats value = weighted(load(x + at), v) * factor + load(shortcut + at);
                    store(out + at, value < 0 ? Floats{} : value);
                }
            }
        });
    }

    // `after`, the gradient of what goes into the ReLU, and that of each pixel's attention, the sum of z * after.
    static void gate(const T* x, const T* gradient, const T* out, Shape shape, const float* norm, const float* weights,
                     T* after, float* to_attention) {
        for_pieces(shape, [&](long image, long first, long last, long) {
            const Weighted weighted(norm, weights, image);
            for (long pixel = first; pixel < last; pixel += LANES) {
                const long here = image * shape.pixels + pixel;
                Floats sums[COUNT] = {};
#pragma GCC unroll 16
                for (int i = 0; i < COUNT; i++)
                    for (int v = 0; v < VECTORS; v++) {
                        const long at = (here + i * PACK) * C + v * LANES;
                        const Floats kept = load(out + at) > 0 ? load(gradient + at) : Floats{};
                        store(after + at, kept);
                        sums[i] += kept * weighted(load(x + at), v);
                    }
                store(to_attention + here, combine_neighbours<COUNT, sum>(sums));
            }
        });
    }

    // The gradient of z of one vector: by way of the product with the attention, of the mean and of the maximum.
    static Floats to_z(Floats z, Floats after, Floats attention, Floats average, Floats maximum, Floats share) {
        return after * attention + average + (z == maximum ? share : Floats{});
    }

    // Each pixel's gradient of its maximum shared among the channels that are as large, `share`; of the gradient of z
    // its sum and its sum times (x - mean), (B, 2, C). `average` is the gradient of each channel by way of the mean.
    static void attend_sums(const T* x, const T* after, Shape shape, const float* norm, const float* weights,
                            const float* attention, const float* average, const float* maximum, const float* to_maximum,
                            float* share, float* sums) {
        std::vector<float> pieces(shape.batch * shape.pieces() * 2 * C);
        for_pieces(shape, [&](long image, long first, long last, long piece) {
            const Weighted weighted(norm, weights, image);
            Floats plain[VECTORS] = {}, along[VECTORS] = {};
            for (long pixel = first; pixel < last; pixel += LANES) {
                const long here = image * shape.pixels + pixel;
                Floats equal[COUNT] = {};
#pragma GCC unroll 16
                for (int i = 0; i < COUNT; i++) {
                    const Floats highest = L::spread(maximum + here + i * PACK);
                    for (int v = 0; v < VECTORS; v++) {
                        const Floats z = weighted(load(x + (here + i * PACK) * C + v * LANES), v);
                        equal[i] += z == highest ? Floats{} + 1 : Floats{};
                    }
                }
                const Floats count = combine_neighbours<COUNT, sum>(equal);
                store(share + here, load(to_maximum + here) / larger(count, Floats{} + 1));
                for (int i = 0; i < COUNT; i++) {
                    const long own = here + i * PACK;
                    const Floats pixels[] = {L::spread(attention + own), L::spread(average + own),
                                             L::spread(maximum + own), L::spread(share + own)};
                    for (int v = 0; v < VECTORS; v++) {
                        const long at = own * C + v * LANES;
                        const Floats value = load(x + at);
                        const Floats gradient = to_z(weighted(value, v), load(after + at), pixels[0], pixels[1],
                                                     pixels[2], pixels[3]);
                        plain[v] += gradient;
                        along[v] += gradient * (value - weighted.norm.mean[v]);
                    }
                }
            }
            L::gather(plain, &pieces[piece * 2 * C]);
            L::gather(along, &pieces[(piece * 2 + 1) * C]);
        });
        add_pieces(pieces, shape, 2 * C, sums);
    }

    // The gradient of x: factor * (that of z) + shift + (x - mean) * slope. `linear` is (B, 3, C).
    static void attend_backward(const T* x, const T* after, Shape shape, const float* norm, const float* weights,
                                const float* attention, const float* average, const float* maximum, const float* share,
                                const float* linear, T* to_x) {
        for_pieces(shape, [&](long image, long first, long last, long) {
            const Weighted weighted(norm, weights, image);
            const float* numbers = linear + image * 3 * C;
            const Channels factor(numbers), shift(numbers + C), slope(numbers + 2 * C);
            for (long pixel = first; pixel < last; pixel += PACK) {
                const long here = image * shape.pixels + pixel;
                const Floats pixels[] = {L::spread(attention + here), L::spread(average + here),
                                         L::spread(maximum + here), L::spread(share + here)};
                for (int v = 0; v < VECTORS; v++) {
                    const long at = here * C + v * LANES;
                    const Floats value = load(x + at);
                    const Floats gradient =
                        to_z(weighted(value, v), load(after + at), pixels[0], pixels[1], pixels[2], pixels[3]);
                    store(to_x + at, gradient * factor[v] + shift[v] + (value - weighted.norm.mean[v]) * slope[v]);
                }
            }
        });
    }
};

// Calls f<T, C>() for the type and the number of channels.
template <class F>
bool dispatch(bool bfloat16, long channels, const F& f) {
    return by_channels(channels, [&]<int C>() {
        if (bfloat16) {
            f.template operator()<uint16_t, C>();
        } else {
            f.template operator()<float, C>();
        }
    });
}

}  // namespace

// The functions are those of `Passes`. H * W is a multiple of LANES. False, and nothing done, for an unknown number of
// channels.
#define SRS_PASS(name, call, ...)                                                              \
    extern "C" bool srs_##name(bool bfloat16, long batch, long pixels, long channels, __VA_ARGS__) { \
        const Shape shape = {batch, pixels};                                                   \
        return dispatch(bfloat16, channels, [&]<class T, int C>() { Passes<T, C>::name call; }); \
    }
#define MAP(map) ((const T*)map)
#define OUT(map) ((T*)map)

SRS_PASS(moments, (MAP(x), shape, sign, moments, extreme, where), const void* x, const float* sign, float* moments,
         float* extreme, int32_t* where)
SRS_PASS(norm_relu, (MAP(x), shape, norm, OUT(out)), const void* x, const float* norm, void* out)
SRS_PASS(norm_relu_sums, (MAP(x), MAP(gradient), shape, norm, sums), const void* x, const void* gradient,
         const float* norm, float* sums)
SRS_PASS(norm_relu_backward, (MAP(x), OUT(gradient), shape, norm, linear), const void* x, void* gradient,
         const float* norm, const float* linear)
SRS_PASS(pool_channels, (MAP(x), shape, norm, weights, average, maximum), const void* x, const float* norm,
         const float* weights, float* average, float* maximum)
SRS_PASS(finish, (MAP(x), shape, norm, weights, attention, MAP(shortcut), OUT(out)), const void* x, const float* norm,
         const float* weights, const float* attention, const void* shortcut, void* out)
SRS_PASS(gate, (MAP(x), MAP(gradient), MAP(out), shape, norm, weights, OUT(after), to_attention), const void* x,
         const void* gradient, const void* out, const float* norm, const float* weights, void* after,
         float* to_attention)
SRS_PASS(attend_sums,
         (MAP(x), MAP(after), shape, norm, weights, attention, average, maximum, to_maximum, share, sums),
         const void* x, const void* after, const float* norm, const float* weights, const float* attention,
         const float* average, const float* maximum, const float* to_maximum, float* share, float* sums)
SRS_PASS(attend_backward,
         (MAP(x), MAP(after), shape, norm, weights, attention, average, maximum, share, linear, OUT(to_x)),
         const void* x, const void* after, const float* norm, const float* weights, const float* attention,
         const float* average, const float* maximum, const float* share, const float* linear, void* to_x)
