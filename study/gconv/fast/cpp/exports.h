// The group convolution of study/gconv/fast/fourier.py in one pass: shifted reads, the point group's Fourier transform, the
// products of every irrep and the transform back, tile by tile, so that what is between them never leaves the caches.
// What surrounds a convolution in a network can be done on the way: batch norm and ReLU while its input is read, and the
// sums that batch norm needs while its output is written. study/gconv/fast/fused.py says what is computed, and calls.

#pragma once

#include "elementwise.h"
#include "gradients.h"

// For ctypes: <function>_<dtype>, and <function>_<order>_<irreps of dimension 1>_<dtype>.
#define EXPORT_ELEMENTWISE(name, T)                                                                                    \
    extern "C" void normalise_##name(const T *z, T *out, const T *coefficients, Index fields, Index planes,            \
                                     Index size, int threads) {                                                        \
        normalise<T>(z, out, coefficients, fields, planes, size, threads);                                             \
    }                                                                                                                  \
    extern "C" void unnormalise_##name(const T *x, const T *z, T *out, const T *coefficients, Index fields,            \
                                       Index planes, Index size, int threads) {                                        \
        unnormalise<T>(x, z, out, coefficients, fields, planes, size, threads);                                        \
    }                                                                                                                  \
    extern "C" void sum_##name(const T *x, const T *z, const T *coefficients, double *sums, Index fields,              \
                               Index planes, Index size, Index writing, int threads) {                                 \
        sum<T>(x, z, coefficients, sums, fields, planes, size, writing, threads);                                      \
    }

#define EXPORT_POOL(name, T)                                                                                           \
    extern "C" void max_pool_##name(const T *f, T *out, std::uint8_t *places, Index planes, Index rows, Index columns, \
                                    int threads) {                                                                     \
        max_pool<T>(f, out, places, planes, rows, columns, threads);                                                   \
    }                                                                                                                  \
    extern "C" void max_pool_backward_##name(const T *e, T *gradient, const std::uint8_t *places, Index planes,        \
                                             Index rows, Index columns, int threads) {                                 \
        max_pool_backward<T>(e, gradient, places, planes, rows, columns, threads);                                     \
    }

#define EXPORT(name, G, T)                                                                                             \
    extern "C" Index weight_size_##name(Index outputs, Index inputs, Index n_taps) {                                   \
        return outputs * inputs * n_taps * (G::rows ? G::lines + 4 : G::lines);                                        \
    }                                                                                                                  \
    extern "C" void prepare_##name(const T *psi, T *weight, const std::int32_t *table, Index n_taps, Index outputs,    \
                                   Index inputs, int adjoint, int spreads, int summed, int threads) {                  \
        prepare<G, T>(psi, weight, table, n_taps, outputs, inputs, adjoint, spreads,                                   \
                      summed ? summed_positions : tile_positions, threads);                                            \
    }                                                                                                                  \
    extern "C" void gather_##name(const Source *f, const T *weight, const Target *out, const Index *taps,              \
                                  Index n_taps, Index stride, int threads) {                                           \
        gather<G, T>(*f, weight, *out, taps, n_taps, stride, threads);                                                 \
    }                                                                                                                  \
    extern "C" void scatter_##name(const Source *f, const T *weight, const Target *out, const Index *taps,             \
                                   Index n_taps, Index stride, int threads) {                                          \
        scatter<G, T>(*f, weight, *out, taps, n_taps, stride, threads);                                                \
    }                                                                                                                  \
    extern "C" Index joins_gradients_##name(const Source *e, const Source *f, Index n_taps, int threads) {             \
        return joins_gradients<G, T>(*e, *f, n_taps, threads);                                                         \
    }                                                                                                                  \
    extern "C" void gradients_##name(const Source *e, const Source *f, const T *weight, const Target *out, T *psi,     \
                                     const std::int32_t *table, const Index *taps, Index n_taps, Index stride,         \
                                     int threads) {                                                                    \
        both_gradients<G, T>(*e, *f, weight, *out, psi, table, taps, n_taps, stride, threads);                         \
    }                                                                                                                  \
    extern "C" void filter_gradient_##name(const Source *e, const Source *f, T *psi, const std::int32_t *table,        \
                                           const Index *taps, Index n_taps, Index stride, int adjoint, int threads) {  \
        filter_gradient<G, T>(*e, *f, psi, table, taps, n_taps, stride, adjoint, threads);                             \
    }

#define EXPORT_ALL(dtype, T)                                                                                           \
    EXPORT_ELEMENTWISE(dtype, T)                                                                                       \
    EXPORT_POOL(dtype, T)                                                                                              \
    EXPORT(1_1_##dtype, C1, T)                                                                                         \
    EXPORT(2_2_##dtype, C2, T)                                                                                         \
    EXPORT(4_4_##dtype, D2, T)                                                                                         \
    EXPORT(4_2_##dtype, C4, T)                                                                                         \
    EXPORT(8_4_##dtype, D4, T)
