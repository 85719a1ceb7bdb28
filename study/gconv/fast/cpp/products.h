// The products of matrices, with all sums in registers.

#pragma once

#include "fourier.h"
#include <type_traits>

namespace {

// out[i][p] (+)= sum_d weight[i][d] v[d][p] for `height` rows i and `width` vectors of positions, all in registers.
template <class T, int height, int width>
void product(const T *weight, Index weight_pitch, const T *v, Index pitch, Index depth, T *out, Index out_pitch,
             bool adds) {
    Vector<T> sum[height][width];
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++)
            sum[i][j] = adds ? load(out + i * out_pitch + j * lanes<T>) : Vector<T>{};
    for (Index d = 0; d < depth; d++, v += pitch) {
        Vector<T> x[width];
        for (int j = 0; j < width; j++) x[j] = load(v + j * lanes<T>);
        for (int i = 0; i < height; i++) {
            const T w = weight[i * weight_pitch + d];
            for (int j = 0; j < width; j++) sum[i][j] += w * x[j];
        }
    }
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) store(out + i * out_pitch + j * lanes<T>, sum[i][j]);
}

// The sums over the lanes of `count` vectors, which are overwritten: sums[i] = sum_l v[i][l]. Pairs of vectors are folded
// into one until every lane is a sum.
template <class T, int count, int half = lanes<T> / 2> inline void sum_lanes(Vector<T> *v, T *sums) {
    if constexpr (half == 0)
        for (int i = 0; i < (count + lanes<T> - 1) / lanes<T>; i++) store(sums + i * lanes<T>, v[i]);
    else {
        using Places = std::conditional_t<sizeof(T) == 4, Vector<std::int32_t>, Vector<std::int64_t>>;
        constexpr int groups = lanes<T> / 2 / half;  // of lanes of the same sum, in a vector
        Places low, high;
        for (int l = 0; l < lanes<T>; l++) {
            const int group = l / half;
            low[l] = group / groups * lanes<T> + group % groups * 2 * half + l % half;
            high[l] = low[l] + half;
        }
        constexpr int pairs = (count + 1) / 2;
        for (int i = 0; i < pairs; i++) {
            const Vector<T> a = v[2 * i], b = 2 * i + 1 < count ? v[2 * i + 1] : Vector<T>{};
            v[i] = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
        }
        sum_lanes<T, (half > 1 ? pairs : pairs * int(lanes<T>)), half / 2>(v, sums);
    }
}

template <class T> T total(Vector<T> v) {
    T sums[lanes<T>];
    sum_lanes<T, 1>(&v, sums);
    return sums[0];
}

// sums[i][j] += sum_p a[i][p] b[j][p], for `height` rows of a and `width` of b, over `terms` pairs of such matrices.
template <class T, int height, int width>
void inner_product(const T *a, const T *b, Index pitch, Index positions, Index terms, Index a_term, Index b_term,
                   T *sums, Index sums_pitch) {
    Vector<T> sum[height][width];
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) sum[i][j] = Vector<T>{};
    for (Index term = 0; term < terms; term++, a += a_term, b += b_term)
        for (Index p = 0; p < positions; p += lanes<T>) {
            Vector<T> x[height];
            for (int i = 0; i < height; i++) x[i] = load(a + i * pitch + p);
            for (int j = 0; j < width; j++) {
                const Vector<T> y = load(b + j * pitch + p);
                for (int i = 0; i < height; i++) sum[i][j] += x[i] * y;
            }
        }
    T totals[(height * width + lanes<T>) / lanes<T> * lanes<T>];
    sum_lanes<T, height * width>(sum[0], totals);
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++) sums[i * sums_pitch + j] += totals[i * width + j];
}

// The sizes that fit into the registers, as tables of functions.
constexpr int most_rows = register_bytes == 64 ? 6 : register_bytes == 32 ? 4 : 5;
constexpr int most_vectors = register_bytes == 64 ? 4 : register_bytes == 32 ? 2 : 4;
constexpr int inner_rows = register_bytes == 32 ? 3 : 4;
constexpr int inner_columns = register_bytes == 64 ? 6 : register_bytes == 32 ? 3 : 5;

template <class T> using Product = void (*)(const T *, Index, const T *, Index, Index, T *, Index, bool);
template <class T>
using InnerProduct = void (*)(const T *, const T *, Index, Index, Index, Index, Index, T *, Index);

template <class T, int height, int width> struct Table {
    static void fill(Product<T> (*table)[most_vectors + 1]) {
        table[height][width] = product<T, height, width>;
        if constexpr (width > 1) Table<T, height, width - 1>::fill(table);
        else if constexpr (height > 1) Table<T, height - 1, most_vectors>::fill(table);
    }
};

template <class T, int height, int width> struct InnerTable {
    static void fill(InnerProduct<T> (*table)[inner_columns + 1]) {
        table[height][width] = inner_product<T, height, width>;
        if constexpr (width > 1) InnerTable<T, height, width - 1>::fill(table);
        else if constexpr (height > 1) InnerTable<T, height - 1, inner_columns>::fill(table);
    }
};

// Calls body(start, size) for parts of nearly equal size.
template <class Body> void divide(Index whole, Index most, Body body) {
    const Index parts = (whole + most - 1) / most;
    for (Index i = 0, start = 0; i < parts; i++) {
        const Index size = (whole - start) / (parts - i);
        body(start, size);
        start += size;
    }
}

// (rows, depth) matrix times (depth, positions), whatever their size.
template <class T>
void multiply(const T *weight, Index weight_pitch, Index rows, const T *v, Index pitch, Index depth, Index positions,
              T *out, Index out_pitch, bool adds) {
    static Product<T> table[most_rows + 1][most_vectors + 1];
    static const bool filled = (Table<T, most_rows, most_vectors>::fill(table), true);
    (void)filled;
    divide((positions + lanes<T> - 1) / lanes<T>, most_vectors, [&](Index first, Index vectors) {
        divide(rows, most_rows, [&](Index row, Index count) {
            table[count][vectors](weight + row * weight_pitch, weight_pitch, v + first * lanes<T>, pitch, depth,
                                  out + row * out_pitch + first * lanes<T>, out_pitch, adds);
        });
    });
}

template <class T>
void add_inner_products(const T *a, Index rows, const T *b, Index columns, Index pitch, Index positions, Index terms,
                        Index a_term, Index b_term, T *sums, Index sums_pitch) {
    static InnerProduct<T> table[inner_rows + 1][inner_columns + 1];
    static const bool filled = (InnerTable<T, inner_rows, inner_columns>::fill(table), true);
    (void)filled;
    divide(columns, inner_columns, [&](Index column, Index width) {
        divide(rows, inner_rows, [&](Index row, Index height) {
            table[height][width](a + row * pitch, b + column * pitch, pitch, positions, terms, a_term, b_term,
                                 sums + row * sums_pitch + column, sums_pitch);
        });
    });
}

// The products of all irreps: components v of `count` rows each times the matrices of `outputs` rows each, starting at
// output field `first` of `all`; out[c][o][position].
template <class G, class T>
void multiply_components(const T *weight, Index all, Index first, Index outputs, const T *v, Index count, Index pitch,
                         Index positions, T *out, bool adds) {
    const Index component = count * pitch, out_component = outputs * pitch;
    for (int c = 0; c < G::lines; c++)
        multiply(weight + (c * all + first) * count, count, outputs, v + c * component, pitch, count, positions,
                 out + c * out_component, pitch, adds);
    weight += G::lines * all * count;
    for (int c = G::lines; c < G::order; c += 2)  // a row's two components one below the other
        for (int j = 0; j < 2; j++)
            multiply(weight + (j * all + first) * 2 * count, 2 * count, outputs, v + c * component, pitch, 2 * count,
                     positions, out + (c + j) * out_component, pitch, adds);
}

}  // namespace
