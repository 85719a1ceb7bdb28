// What the sources of the compiled library share: the point groups' Fourier transforms, vectors of whatever width the
// CPU has, and the window of a feature map in which all taps of a tile lie.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using Index = std::int64_t;

// The transforms, from the values on the group to components in the order of FilterTransform.matrix: `lines` irreps of
// dimension 1, then `rows` rows of the one of dimension 2. Additions only.

// One element (Z2): an ordinary convolution.
struct C1 {
    static constexpr int order = 1, lines = 1, rows = 0;

    template <class T> static inline void transform(const T *x, T *v) { v[0] = x[0]; }

    template <class T> static inline void transposed(const T *v, T *x) { x[0] = v[0]; }
};

// Two elements (P2, PM): the trivial irrep and the other.
struct C2 {
    static constexpr int order = 2, lines = 2, rows = 0;

    template <class T> static inline void transform(const T *x, T *v) {
        v[0] = x[0] + x[1];
        v[1] = x[0] - x[1];
    }

    template <class T> static inline void transposed(const T *v, T *x) { transform(v, x); }
};

// Half turn and reflections (PMM): the transform of C2 twice.
struct D2 {
    static constexpr int order = 4, lines = 4, rows = 0;

    template <class T> static inline void transform(const T *x, T *v) {
        const T even = x[0] + x[1], odd = x[0] - x[1], mirrored_even = x[2] + x[3], mirrored_odd = x[2] - x[3];
        v[0] = even + mirrored_even;
        v[1] = odd + mirrored_odd;
        v[2] = even - mirrored_even;
        v[3] = odd - mirrored_odd;
    }

    template <class T> static inline void transposed(const T *v, T *x) { transform(v, x); }
};

// Quarter turns (P4): two of dimension 1, then one row of the plane.
struct C4 {
    static constexpr int order = 4, lines = 2, rows = 1;

    template <class T> static inline void transform(const T *x, T *v) {
        const T even = x[0] + x[2], odd = x[1] + x[3];
        v[0] = even + odd;
        v[1] = even - odd;
        v[2] = x[0] - x[2];
        v[3] = x[3] - x[1];
    }

    template <class T> static inline void transposed(const T *v, T *x) {
        const T even = v[0] + v[1], odd = v[0] - v[1];
        x[0] = even + v[2];
        x[1] = odd - v[3];
        x[2] = even - v[2];
        x[3] = odd + v[3];
    }
};

// Quarter turns and reflections (P4M): four of dimension 1, then the two rows of the plane. Turns first, then the
// reflection joins the two halves.
struct D4 {
    static constexpr int order = 8, lines = 4, rows = 2;

    template <class T> static inline void transform(const T *x, T *v) {
        T turned[4], mirrored[4];
        C4::transform(x, turned);
        C4::transform(x + 4, mirrored);
        v[0] = turned[0] + mirrored[0];
        v[1] = turned[1] + mirrored[1];
        v[2] = turned[0] - mirrored[0];
        v[3] = turned[1] - mirrored[1];
        v[4] = turned[2] + mirrored[2];
        v[5] = turned[3] - mirrored[3];
        v[6] = -turned[3] - mirrored[3];
        v[7] = turned[2] - mirrored[2];
    }

    template <class T> static inline void transposed(const T *v, T *x) {
        const T turned[4] = {v[0] + v[2], v[1] + v[3], v[4] + v[7], v[5] - v[6]};
        const T mirrored[4] = {v[0] - v[2], v[1] - v[3], v[4] - v[7], -v[5] - v[6]};
        C4::transposed(turned, x);
        C4::transposed(mirrored, x + 4);
    }
};

// Neighbouring positions at once, as many as one register of the CPU holds.
#ifdef __AVX512F__
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif
template <class T> constexpr Index lanes = register_bytes / sizeof(T);
template <class T> struct Register {
    typedef T type __attribute__((vector_size(register_bytes)));
};
template <class T> using Vector = typename Register<T>::type;

template <class T> static inline Vector<T> load(const T *from) {
    Vector<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class T> static inline void store(T *to, Vector<T> v) { std::memcpy(to, &v, sizeof v); }

// Part of a row: `count` neighbours in the window from `to` on, in the plane from `from` on, a stride apart.
struct Run {
    Index to, from, count;
};

// Where all taps of a block of rows read or write, in the coordinates of a plane: a window of its own, beyond the
// border of the plane too. It is kept as stride * stride planes of every stride-th row and column, in which neighbours
// stay neighbours.
struct Window {
    Index stride, top, left, rows, columns;  // the first row and column, and the size of each of the planes

    Window(const Index *taps, Index n, Index stride, Index first_row, Index first_column, Index block_rows,
           Index block_columns)
        : stride(stride) {
        Index low[2] = {taps[0], taps[1]}, high[2] = {taps[0], taps[1]};
        for (Index i = 0; i < 2 * n; i++) {
            low[i % 2] = std::min(low[i % 2], taps[i]);
            high[i % 2] = std::max(high[i % 2], taps[i]);
        }
        top = stride * first_row + low[0];
        left = stride * first_column + low[1];
        rows = block_rows + (high[0] - low[0]) / stride;
        columns = block_columns + (high[1] - low[1]) / stride;
        lowest[0] = low[0];
        lowest[1] = low[1];
    }

    Index size() const { return stride * stride * rows * columns; }

    // Where a tap's first position lies in memory; the next row is `columns` further.
    Index start(const Index *tap) const {
        const Index y = tap[0] - lowest[0], x = tap[1] - lowest[1];
        return ((y % stride * stride + x % stride) * rows + y / stride) * columns + x / stride;
    }

    // The parts of the rows that lie in the plane.
    std::vector<Run> runs(Index height, Index width) const {
        std::vector<Run> found;
        for (Index phase = 0; phase < stride * stride; phase++)
            for (Index i = 0; i < rows; i++) {
                const Index y = top + stride * i + phase / stride, x = left + phase % stride;
                const Index from = std::min(columns, x < 0 ? (-x + stride - 1) / stride : 0);
                const Index to = std::min(columns, x < width ? (width - 1 - x) / stride + 1 : 0);
                if (y >= 0 && y < height && to > from)
                    found.push_back({(phase * rows + i) * columns + from, y * width + x + stride * from, to - from});
            }
        return found;
    }

  private:
    Index lowest[2];  // of the taps' rows and columns
};
