// What is done to one value after another: batch norm with ReLU, and pooling.

#pragma once

#include "writing.h"

namespace {

// One value after another, plane by plane: out = max(0, c0 z + c1).
template <class T> void normalise(const T *z, T *out, const T *coefficients, Index fields, Index planes, Index size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index i = 0; i < planes; i++) {
        const T scale = coefficients[2 * (i % fields)], shift = coefficients[2 * (i % fields) + 1];
        for (Index x = i * size; x < (i + 1) * size; x++) {
            const T y = scale * z[x] + shift;
            out[x] = y < 0 ? T(0) : y;
        }
    }
}

// out = c2 x' + c3 z + c4, as in `unnormalised`; it may be x itself.
template <class T>
void unnormalise(const T *x, const T *z, T *out, const T *coefficients, Index fields, Index planes, Index size, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index i = 0; i < planes; i++) {
        const T *c = coefficients + 5 * (i % fields);
        const T c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3], c4 = c[4];
        for (Index j = i * size; j < (i + 1) * size; j++)
            out[j] = c2 * (c0 * z[j] + c1 > 0 ? x[j] : T(0)) + (c3 * z[j] + c4);
    }
}

// The largest of every 2 x 2 pixels, the first where several are or a NaN, and which of the four it is.
template <class T>
void max_pool(const T *f, T *out, std::uint8_t *places, Index planes, Index rows, Index columns, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index i = 0; i < planes * rows; i++) {
        const T *above = f + 4 * i * columns, *below = above + 2 * columns;
        for (Index x = 0; x < columns; x++) {
            const T values[4] = {above[2 * x], above[2 * x + 1], below[2 * x], below[2 * x + 1]};
            T most = values[0];
            int place = 0;
            for (int j = 1; j < 4; j++) {
                const bool more = values[j] > most || (values[j] != values[j]);
                most = more ? values[j] : most;
                place = more ? j : place;
            }
            out[i * columns + x] = most;
            places[i * columns + x] = std::uint8_t(place);
        }
    }
}

// Its gradient: that of every output to where its value came from.
template <class T>
void max_pool_backward(const T *e, T *gradient, const std::uint8_t *places, Index planes, Index rows, Index columns,
                       int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index i = 0; i < planes * rows; i++) {
        T *above = gradient + 4 * i * columns, *below = above + 2 * columns;
        for (Index x = 0; x < columns; x++) {
            const T value = e[i * columns + x];
            const int place = places[i * columns + x];
            above[2 * x] = place == 0 ? value : T(0);
            above[2 * x + 1] = place == 1 ? value : T(0);
            below[2 * x] = place == 2 ? value : T(0);
            below[2 * x + 1] = place == 3 ? value : T(0);
        }
    }
}

// The sums of `Writing`, of what is there already: moments, or gradients, for which there are x and z.
template <class T>
void sum(const T *x, const T *z, const T *coefficients, double *sums, Index fields, Index planes, Index size, Index writing,
         int threads) {
    constexpr Index step = lanes<T>;
    std::vector<Sums> parts(planes);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index i = 0; i < planes; i++) {
        const T *c = coefficients + 4 * (i % fields), *own = x + i * size, *at = z + i * size;
        Vector<T> first = {}, second = {};
        T rest[2] = {};
        const auto all = [&](auto body) {
            Index j = 0;
            for (; j + step <= size; j += step) body(j, first, second, Vector<T>{});
            for (; j < size; j++) body(j, rest[0], rest[1], T(0));
        };
        const auto read = [](const T *from, auto like) {
            decltype(like) value;
            std::memcpy(&value, from, sizeof value);
            return value;
        };
        if (writing == moments) {
            all([&](Index j, auto &a, auto &, auto zero) { a += read(own + j, zero); });
            parts[i].first = (total<T>(first) + rest[0]) / double(size);
            const T mean = T(parts[i].first);
            all([&](Index j, auto &, auto &b, auto zero) {
                const auto difference = read(own + j, zero) - mean;
                b += difference * difference;
            });
        } else {
            all([&](Index j, auto &a, auto &b, auto zero) {
                const auto there = read(at + j, zero), value = read(own + j, zero);
                const auto masked = c[0] * there + c[1] > 0 ? value : zero;
                a += masked;
                b += masked * (c[2] * there + c[3]);
            });
            parts[i].first = total<T>(first) + rest[0];
        }
        parts[i].second = total<T>(second) + rest[1];
    }
    const std::vector<Tile> equal(planes / fields, Tile{0, 1, 0, 1, 0, size});
    join(parts, equal, fields, 1, writing, sums);
}

}  // namespace
