// The two halves of study/gconv/fourier.py that are no matrix products: shifted reads with the point group's Fourier
// transform on the fly, and the transposed transform with shifted writes. Additions only, one pass over memory each.
// study/gconv/transform.py says what is computed, has the same in plain torch, and is the only caller.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using Index = std::int64_t;

// Components in the order of FilterTransform.matrix: two of dimension 1, then one row of the plane.
struct C4 {
    static constexpr int order = 4;

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

// Four of dimension 1, then the two rows of the plane: turns first, then the reflection joins the two halves.
struct D4 {
    static constexpr int order = 8;

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

// Several neighbouring positions at once, in whatever registers the CPU has.
template <class T, int lanes> struct Vector {
    typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};
template <class T> struct Vector<T, 1> {
    typedef T type;
};

template <class V, class T> static inline V load(const T *from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class V, class T> static inline void store(T *to, V v) { std::memcpy(to, &v, sizeof v); }

// Calls body(V(), x) for vectors V that cover x = 0, ..., count - 1. The last one may overlap the one before.
template <class T, class Body> static inline void sweep(Index count, Body body) {
    const auto step = [&](auto v, Index lanes) {
        for (Index x = 0; x < count - lanes; x += lanes) body(v, x);
        body(v, count - lanes);
    };
    constexpr Index widest = 64 / sizeof(T);
    if (count >= widest) step(typename Vector<T, widest>::type(), widest);
    else if (count >= 4) step(typename Vector<T, 4>::type(), 4);
    else if (count > 0) step(T(), 1);
}

// Where all taps of a block of rows read or write, in the coordinates of a plane: a window of its own, beyond the border
// of the plane too. It is kept as stride * stride planes of every stride-th row and column, in which neighbours stay neighbours.
template <Index stride> struct Window {
    Index top, left, rows, columns;  // the first row and column, and the size of each of the planes

    Window(const Index *taps, Index n, Index first_row, Index block_rows, Index block_columns) {
        Index low[2] = {taps[0], taps[1]}, high[2] = {taps[0], taps[1]};
        for (Index i = 0; i < 2 * n; i++) {
            low[i % 2] = std::min(low[i % 2], taps[i]);
            high[i % 2] = std::max(high[i % 2], taps[i]);
        }
        top = stride * first_row + low[0];
        left = low[1];
        rows = block_rows + (high[0] - low[0]) / stride;
        columns = block_columns + (high[1] - low[1]) / stride;
        lowest = low[0];
    }

    Index size() const { return stride * stride * rows * columns; }

    // Where a tap's first position lies in memory; the next row is `columns` further.
    Index start(const Index *tap) const {
        const Index y = tap[0] - lowest, x = tap[1] - left;
        return ((y % stride * stride + x % stride) * rows + y / stride) * columns + x / stride;
    }

    // Calls body(address in the window, address in the plane, count) for the parts of every row that lie in the plane;
    // neighbours in the window are stride apart in the plane.
    template <class Body> void each_row(Index height, Index width, Body body) const {
        for (Index phase = 0; phase < stride * stride; phase++)
            for (Index i = 0; i < rows; i++) {
                const Index y = top + stride * i + phase / stride, x = left + phase % stride;
                const Index from = std::min(columns, x < 0 ? (-x + stride - 1) / stride : 0);
                const Index to = std::min(columns, x < width ? (width - 1 - x) / stride + 1 : 0);
                if (y >= 0 && y < height && to > from)
                    body((phase * rows + i) * columns + from, y * width + x + stride * from, to - from);
            }
    }

  private:
    Index lowest;  // of the taps' rows, as left is of their columns
};

// f (batch, fields, |G|, height, width) -> v (|G| components, taps, fields, batch, rows, columns):
// v[c, t, k, b, y, x] = sum_h transform[c, h] f[b, k, h, stride * (top + y) + dy, stride * x + dx] with (dy, dx) =
// taps[t, h], and f = 0 beyond its border.
template <class G, class T, Index stride>
static void analyse(const T *f, T *v, const Index *taps, Index n_taps, Index batch, Index fields, Index height,
                    Index width, Index top, Index rows, Index columns, int threads) {
    constexpr int n = G::order;
    const Index component = n_taps * fields * batch * rows * columns;
    const Window<stride> window(taps, n_taps * n, top, rows, columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> copy(n * window.size());  // stays 0 beyond the border, which is the same for all planes
#pragma omp for collapse(2) schedule(static)
        for (Index k = 0; k < fields; k++)
            for (Index b = 0; b < batch; b++) {
                for (int h = 0; h < n; h++) {
                    const T *plane = f + ((b * fields + k) * n + h) * height * width;
                    T *own = copy.data() + h * window.size();
                    window.each_row(height, width, [&](Index to, Index from, Index count) {
                        for (Index x = 0; x < count; x++) own[to + x] = plane[from + stride * x];
                    });
                }
                for (Index t = 0; t < n_taps; t++) {
                    const T *line[n];
                    for (int h = 0; h < n; h++)
                        line[h] = copy.data() + h * window.size() + window.start(taps + 2 * (t * n + h));
                    T *out = v + ((t * fields + k) * batch + b) * rows * columns;
                    for (Index y = 0; y < rows; y++, out += columns)
                        sweep<T>(columns, [&](auto vector, Index x) {
                            decltype(vector) in[n], transformed[n];
                            for (int h = 0; h < n; h++)
                                in[h] = load<decltype(vector)>(line[h] + y * window.columns + x);
                            G::transform(in, transformed);
                            for (int c = 0; c < n; c++) store(out + c * component + x, transformed[c]);
                        });
                }
            }
    }
}

// v: |G| components (taps, fields, batch, rows, columns) -> out (batch, fields, |G|, height, width):
// out[b, k, g, stride * (top + y) + dy, stride * x + dx] += sum_c transform[c, g] v[c][t, k, b, y, x], where that lies
// inside. With a single tap it is written, not added.
template <class G, class T, Index stride>
static void synthesise(const T *const *v, T *out, const Index *taps, Index n_taps, Index batch, Index fields,
                       Index height, Index width, Index top, Index rows, Index columns, int threads) {
    constexpr int n = G::order;
    const Window<stride> window(taps, n_taps * n, top, rows, columns);
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> sum(n * window.size()), scratch(n * columns);
#pragma omp for collapse(2) schedule(static)
        for (Index k = 0; k < fields; k++)  // one thread has all taps of a field: nobody else writes to its planes
            for (Index b = 0; b < batch; b++) {
                if (n_taps > 1) std::fill(sum.begin(), sum.end(), T(0));
                for (Index t = 0; t < n_taps; t++) {
                    T *line[n];
                    for (int g = 0; g < n; g++)
                        line[g] = sum.data() + g * window.size() + window.start(taps + 2 * (t * n + g));
                    const Index start = ((t * fields + k) * batch + b) * rows * columns;
                    for (Index y = 0; y < rows; y++) {
                        T *target = n_taps > 1 ? scratch.data() : nullptr;
                        sweep<T>(columns, [&](auto vector, Index x) {
                            decltype(vector) in[n], transformed[n];
                            for (int c = 0; c < n; c++) in[c] = load<decltype(vector)>(v[c] + start + y * columns + x);
                            G::transposed(in, transformed);
                            for (int g = 0; g < n; g++)
                                store(target ? target + g * columns + x : line[g] + y * window.columns + x, transformed[g]);
                        });
                        if (target)
                            for (int g = 0; g < n; g++)
                                for (Index x = 0; x < columns; x++)
                                    line[g][y * window.columns + x] += target[g * columns + x];
                    }
                }
                for (int g = 0; g < n; g++) {
                    T *plane = out + ((b * fields + k) * n + g) * height * width;
                    const T *own = sum.data() + g * window.size();
                    window.each_row(height, width, [&](Index from, Index to, Index count) {
                        if (n_taps > 1)
                            for (Index x = 0; x < count; x++) plane[to + stride * x] += own[from + x];
                        else
                            for (Index x = 0; x < count; x++) plane[to + stride * x] = own[from + x];
                    });
                }
            }
    }
}

// analyse_<order>_<stride>_<dtype> and synthesise_<order>_<stride>_<dtype>, for ctypes.
#define EXPORT(name, G, stride, T)                                                                                     \
    extern "C" void analyse_##name(const T *f, T *v, const Index *taps, Index n_taps, Index batch, Index fields,       \
                                   Index height, Index width, Index top, Index rows, Index columns, int threads) {     \
        analyse<G, T, stride>(f, v, taps, n_taps, batch, fields, height, width, top, rows, columns, threads);          \
    }                                                                                                                  \
    extern "C" void synthesise_##name(const T *const *v, T *out, const Index *taps, Index n_taps, Index batch,         \
                                      Index fields, Index height, Index width, Index top, Index rows, Index columns,   \
                                      int threads) {                                                                   \
        synthesise<G, T, stride>(v, out, taps, n_taps, batch, fields, height, width, top, rows, columns, threads);     \
    }

EXPORT(4_1_float32, C4, 1, float)
EXPORT(4_2_float32, C4, 2, float)
EXPORT(8_1_float32, D4, 1, float)
EXPORT(8_2_float32, D4, 2, float)
EXPORT(4_1_float64, C4, 1, double)
EXPORT(4_2_float64, C4, 2, double)
EXPORT(8_1_float64, D4, 1, double)
EXPORT(8_2_float64, D4, 2, double)
