// Vectors of 16 numbers, and how channels_last maps, (B, H, W, C) in memory and float or bfloat16, are read as such.

#pragma once

#include <cstdint>
#include <cstring>

namespace srs {

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Floats load(const float* from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline Floats load(const uint16_t* from) {  // bfloat16 is the upper half of a float
    Halves x;
    std::memcpy(&x, from, sizeof x);
    return (Floats)(__builtin_convertvector(x, Bits) << 16);
}

inline void store(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline void store(uint16_t* to, Floats x) {  // rounds to the nearest, to the even one of two
    Bits bits = (Bits)x;
    bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Halves halves = __builtin_convertvector(x == x ? bits : bits - bits + 0x7fc0, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats sum(Floats a, Floats b) { return a + b; }

constexpr Integers FIRST_HALF = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
constexpr Integers EVEN = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}, ODD = EVEN + 1;

// Combines neighbouring numbers of COUNT vectors until one is left: 16 / COUNT numbers of a pixel each to 16 pixels.
template <int COUNT, Floats combine(Floats, Floats)>
inline Floats combine_neighbours(const Floats* x) {
    if constexpr (COUNT == 1) {
        return x[0];
    } else {
        Floats half[COUNT / 2];
#pragma GCC unroll 8
        for (int i = 0; i < COUNT / 2; i++) {
            const Floats a = x[2 * i], b = x[2 * i + 1];
            half[i] = combine(__builtin_shuffle(a, b, EVEN), __builtin_shuffle(a, b, ODD));
        }
        return combine_neighbours<COUNT / 2, combine>(half);
    }
}

// How C channels are vectors: VECTORS of them are a pixel, or, of 8 channels, PACK = 2 pixels are a vector.
template <int C>
struct Layout {
    static constexpr int PACK = C < LANES ? LANES / C : 1, VECTORS = C * PACK / LANES, WIDE = C * PACK;
    static constexpr int COUNT = LANES / PACK;  // times VECTORS, to go over LANES pixels
    static_assert(C * PACK % LANES == 0);

    // C numbers, one for each channel, as the vectors above.
    struct Channels {
        Floats vectors[VECTORS];

        explicit Channels(const float* numbers) {
            float wide[WIDE];
            for (int i = 0; i < WIDE; i++) wide[i] = numbers[i % C];
            std::memcpy(vectors, wide, sizeof wide);
        }
        Floats operator[](int vector) const { return vectors[vector]; }
    };

    // The numbers of PACK pixels, one each, as a vector of their channels.
    static Floats spread(const float* pixels) {
        if constexpr (PACK == 1) {
            return Floats{} + pixels[0];
        } else {
            static_assert(PACK == 2);
            return FIRST_HALF ? Floats{} + pixels[0] : Floats{} + pixels[1];
        }
    }

    // Adds the parts of `vectors`, and so each channel's: C numbers.
    static void gather(const Floats* vectors, float* numbers) {
        float wide[WIDE];
        std::memcpy(wide, vectors, sizeof wide);
        for (int c = 0; c < C; c++) numbers[c] = wide[c];
        for (int i = C; i < WIDE; i++) numbers[i - C] += wide[i];
    }
};

// Calls f<C>() for the number of channels; false, and nothing done, for one that is not among these.
template <class F>
bool by_channels(long channels, const F& f) {
    switch (channels) {
        case 8: return f.template operator()<8>(), true;
        case 16: return f.template operator()<16>(), true;
        case 32: return f.template operator()<32>(), true;
        case 64: return f.template operator()<64>(), true;
        case 128: return f.template operator()<128>(), true;
        case 256: return f.template operator()<256>(), true;
        default: return false;
    }
}

}  // namespace srs
