// The group convolution of study/gconv/fourier.py in one pass: shifted reads, the point group's Fourier transform, the
// products of every irrep and the transform back, tile by tile, so that what is between them never leaves the caches.
// What surrounds a convolution in a network can be done on the way: batch norm and ReLU while its input is read, and the
// sums that batch norm needs while its output is written. study/gconv/fused.py says what is computed, and calls.

#include "fourier.h"

#include <type_traits>

namespace {

// Feature maps (batch, fields, |G|, height, width), in one tensor or in two side by side.
struct Maps {
    void *data[2];
    Index fields[2];
    Index batch, height, width;
};

// What becomes of a value x when it is read; c are the coefficients of its field.
enum Reading : Index {
    as_is,
    normalised,  // max(0, c0 x + c1): batch norm and ReLU
    // The gradient of that, given x, the gradient of its output, and z, its input: c2 x' + c3 z + c4, where x' is x if
    // c0 z + c1 > 0 and else 0.
    unnormalised,
};

// What becomes of a value x when it is written, or what is summed up of every field.
enum Writing : Index {
    plain,
    rectified,  // max(0, x)
    moments,    // as it is: mean and variance
    gradients,  // as it is: the sums of x' and of x' (c2 z + c3), where x' is as above
};

struct Source {
    Maps maps;
    Index reading;
    const void *coefficients, *z;
};

struct Target {
    Maps maps;
    const void *bias;
    Index writing;
    const void *coefficients, *z;
    double *sums;  // (fields, 2)
};

template <class T> T *plane(const Maps &maps, Index order, Index b, Index k) {
    const bool second = k >= maps.fields[0];
    const Index fields = maps.fields[second];
    return static_cast<T *>(maps.data[second]) +
           (b * fields + k - (second ? maps.fields[0] : 0)) * order * maps.height * maps.width;
}

// Part of the grid of positions: whole images, or some rows and columns of one.
struct Tile {
    Index image, images, top, rows, left, columns;

    Index size() const { return images * rows * columns; }
};

constexpr Index tile_positions = 192;      // enough for long products, few enough for the second-level cache
constexpr Index summed_positions = 384;    // more, where products are summed over them
constexpr Index tile_bytes = 448 * 1024;   // of the components of some fields at a tile

std::vector<Tile> tiles(Index images, Index rows, Index columns, Index positions) {
    if (images * rows * columns == 0) return {};
    const auto parts = [](Index whole, Index most) { return (whole + most - 1) / most; };
    const Index across = parts(columns, 2 * positions), width = parts(columns, across);
    const Index down = parts(rows, std::max<Index>(1, positions / width)), height = parts(rows, down);
    const Index together = across * down > 1 ? 1 : std::max<Index>(1, positions / (rows * columns));
    const Index depth = parts(images, parts(images, together));
    std::vector<Tile> found;
    for (Index b = 0; b < images; b += depth)
        for (Index y = 0; y < rows; y += height)
            for (Index x = 0; x < columns; x += width)
                found.push_back({b, std::min(depth, images - b), y, std::min(height, rows - y), x,
                                 std::min(width, columns - x)});
    return found;
}

// Room for a tile's positions: a vector may be stored beyond the last of them.
template <class T> Index pitch(Index positions) { return (positions / lanes<T> + 2) * lanes<T>; }

// Memory that every thread keeps, since the system takes long to give fresh pages. It starts with a line of the cache, or
// every vector would lie in two.
template <class T> T *scratch(int use, Index size) {
    static thread_local std::vector<T> kept[4];
    constexpr Index line = 64 / sizeof(T);
    if (Index(kept[use].size()) < size + line) {
        kept[use].clear();
        kept[use].resize(size + line);
    }
    const auto address = reinterpret_cast<std::uintptr_t>(kept[use].data());
    return reinterpret_cast<T *>((address + 63) / 64 * 64);
}

// The components of fields first, ..., first + count - 1 at a tile: v[c][k][t][position], where every component has
// count * n_taps rows of `pitch`.
template <class G, class T>
void analyse(const Source &f, Index first, Index count, const Tile &tile, const Index *taps, Index n_taps,
             Index stride, Index pitch, T *v) {
    constexpr int n = G::order;
    constexpr Index step = lanes<T>;
    const Index height = f.maps.height, width = f.maps.width, component = count * n_taps * pitch;
    const Window window(taps, n_taps * n, stride, tile.top, tile.left, tile.rows, tile.columns);
    T *copy = scratch<T>(0, n * window.size() + step);
    std::vector<Index> starts(n * n_taps);
    for (Index i = 0; i < n * n_taps; i++) starts[i] = i % n * window.size() + window.start(taps + 2 * i);
    const std::vector<Run> runs = window.runs(height, width);
    std::fill(copy, copy + n * window.size() + step, T(0));  // beyond the border, which is the same for all planes
    const T *coefficients = static_cast<const T *>(f.coefficients);
    for (Index k = 0; k < count; k++)
        for (Index b = 0; b < tile.images; b++) {
            const Index image = tile.image + b, field = first + k;
            const T *planes = plane<T>(f.maps, n, image, field);
            const T *z = f.reading == unnormalised
                             ? static_cast<const T *>(f.z) + (image * f.maps.fields[0] + field) * n * height * width
                             : nullptr;
            const T *c = coefficients + field * (f.reading == normalised ? 2 : 5);
            for (int h = 0; h < n; h++) {
                const T *from_plane = planes + h * height * width, *from_z = z + h * height * width;
                T *own = copy + h * window.size();
                const auto read = [&](auto value) {
                    for (const Run &run : runs)
                        if (stride == 1)
                            for (Index x = 0; x < run.count; x++) own[run.to + x] = value(run.from + x);
                        else
                            for (Index x = 0; x < run.count; x++) own[run.to + x] = value(run.from + stride * x);
                };
                if (f.reading == as_is)
                    read([&](Index i) { return from_plane[i]; });
                else if (f.reading == normalised)
                    read([&, scale = c[0], shift = c[1]](Index i) {
                        const T y = scale * from_plane[i] + shift;
                        return y < 0 ? T(0) : y;  // a NaN stays one
                    });
                else
                    read([&, c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3], c4 = c[4]](Index i) {
                        const T masked = c0 * from_z[i] + c1 > 0 ? from_plane[i] : T(0);
                        return c2 * masked + (c3 * from_z[i] + c4);
                    });
            }
            if (b + 1 == tile.images && k + 1 < count)  // the processor would not guess where the next field lies
                for (int h = 0; h < n; h++) {
                    const T *next = plane<T>(f.maps, n, tile.image, field + 1) + h * height * width;
                    for (const Run &run : runs)
                        for (Index x = 0; x < stride * run.count; x += 64 / Index(sizeof(T)))
                            __builtin_prefetch(next + run.from + x);
                }
            for (Index t = 0; t < n_taps; t++) {
                const T *line[n];
                for (int h = 0; h < n; h++) line[h] = copy + starts[t * n + h];
                T *out = v + (k * n_taps + t) * pitch + b * tile.rows * tile.columns;
                for (Index y = 0; y < tile.rows; y++, out += tile.columns)
                    for (Index x = 0; x < tile.columns; x += step) {  // what is too much the next row overwrites
                        Vector<T> in[n], transformed[n];
                        for (int h = 0; h < n; h++) in[h] = load(line[h] + y * window.columns + x);
                        G::transform(in, transformed);
                        for (int c = 0; c < n; c++) store(out + c * component + x, transformed[c]);
                    }
            }
        }
}

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

// How many input fields have their components at a tile in memory at once.
template <class G, class T> Index fields_at_once(Index fields, Index n_taps, Index positions) {
    const Index most = std::max<Index>(1, tile_bytes / (G::order * n_taps * positions * Index(sizeof(T))));
    const Index parts = (fields + most - 1) / most;
    return (fields + parts - 1) / parts;
}

// From the places of a filter's taps to those in which they are transformed, for every element, and back. The taps of an
// element are neighbours in a filter; if they fit into a register, they are permuted there.
template <class T> struct Taps {
    typedef std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t> Integer;

    Taps(const std::int32_t *table, int order, Index n_taps) : table(table), n_taps(n_taps), fits(n_taps <= lanes<T>) {
        if (!fits) return;
        for (int u = 0; u < order; u++)
            for (Index t = 0; t < lanes<T>; t++) {
                const Index place = t < n_taps ? table[u * n_taps + t] % n_taps : t;
                there[u][t] = Integer(place);
                back[u][place] = Integer(t);
            }
    }

    // The taps t, t + 1, ... of element u. Beyond the filter there may be nothing to read.
    Vector<T> read(const T *filter, int u, Index t, bool goes_on) const {
        Vector<T> values = {};
        if (fits && goes_on)
            return __builtin_shuffle(load(filter + table[u * n_taps] / n_taps * n_taps), there[u]);
        for (Index l = 0; l < std::min(lanes<T>, n_taps - t); l++) values[l] = filter[table[u * n_taps + t + l]];
        return values;
    }

    void write(T *filter, int u, Index t, Vector<T> values) const {
        if (fits) {
            const Vector<T> moved = __builtin_shuffle(values, back[u]);
            std::memcpy(filter + table[u * n_taps] / n_taps * n_taps, &moved, n_taps * sizeof(T));
        } else
            for (Index l = 0; l < std::min(lanes<T>, n_taps - t); l++) filter[table[u * n_taps + t + l]] = values[l];
    }

  private:
    const std::int32_t *table;
    Index n_taps;
    bool fits;
    Vector<Integer> there[8], back[8];
};

// What is learned, psi (outputs, inputs, |G|, taps), as the matrices by which components are multiplied: for every block
// of input fields those of the irreps of dimension 1, (lines, outputs, inputs of the block, taps), and that of dimension
// 2, (2, outputs, 2, inputs of the block, taps). An adjoint exchanges the roles of inputs and outputs. If it spreads, the
// taps are of the outputs, (outputs, taps), not of the inputs.
template <class G, class T>
void prepare(const T *psi, T *weight, const std::int32_t *table, Index n_taps, Index outputs, Index inputs,
             bool adjoint, bool spreads, Index positions, int threads) {
    constexpr int n = G::order, lines = G::lines, entries = G::rows ? lines + 4 : lines;
    const Index in_taps = spreads ? 1 : n_taps, out_taps = spreads ? n_taps : 1, rows = outputs * out_taps;
    const Index block = fields_at_once<G, T>(inputs, in_taps, positions), filter = n * n_taps, all = outputs * inputs * filter;
    const Taps<T> permuted(table, n, n_taps);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index o = 0; o < outputs; o++)
        for (Index k = 0; k < inputs; k++) {
            const T *from = psi + (adjoint ? k * outputs + o : o * inputs + k) * filter;
            const Index start = k / block * block, count = std::min(block, inputs - start);
            const Index depth = count * in_taps;
            if (adjoint && k + 4 < inputs)  // every filter lies far from the one before
                for (Index i = 0; i < filter; i += 64 / Index(sizeof(T))) __builtin_prefetch(from + 4 * outputs * filter + i);
            T *to = weight + start * in_taps * rows * entries;
            for (Index t = 0; t < n_taps; t += lanes<T>) {
                Vector<T> phi[n], v[n];
                for (int u = 0; u < n; u++) phi[u] = permuted.read(from, u, t, from + filter < psi + all);
                G::transform(phi, v);
                const auto put = [&](Index c, Index row, Vector<T> values) {  // row of one of the matrices, at its first tap
                    T *there = to + (c + row) * depth;
                    const Index now = std::min(lanes<T>, n_taps - t);
                    if (spreads)
                        for (Index l = 0; l < now; l++) there[(t + l) * (c < lines * rows ? 1 : 2) * depth] = values[l];
                    else
                        std::memcpy(there + (k - start) * n_taps + t, &values, now * sizeof(T));
                };
                const Index row = spreads ? o * n_taps : o;
                if (spreads) to += k - start;
                for (int c = 0; c < lines; c++) put(c * rows, row, v[c] / n);
                if constexpr (G::rows > 0) {
                    const Vector<T> one = v[lines] * (T(2) / n), two = v[lines + 1] * (T(2) / n);
                    put(lines * rows, 2 * row, one);  // (j, row, l, ...)
                    put(lines * rows, 2 * row + 1, two);
                    put((lines + 2) * rows, 2 * row, G::rows == 1 ? -two : v[n - 2] * (T(2) / n));
                    put((lines + 2) * rows, 2 * row + 1, G::rows == 1 ? one : v[n - 1] * (T(2) / n));
                }
                if (spreads) to -= k - start;
            }
        }
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

// Sums over a tile: mean and sum of squares about it, or the two sums of `gradients`.
struct Sums {
    double first = 0, second = 0;
};

// Transforms back the components of an output field at a tile, and writes its planes.
template <class G, class T>
Sums write(const Target &out, Index o, const Tile &tile, const T *v, Index component) {
    constexpr int n = G::order;
    constexpr Index step = lanes<T>;
    const Index height = out.maps.height, width = out.maps.width, size = tile.rows * tile.columns;
    const bool whole = tile.columns == width;  // then the rows of a tile follow one another
    const Index runs = whole ? 1 : tile.rows, run = whole ? size : tile.columns;
    const T bias = out.bias ? static_cast<const T *>(out.bias)[o] : T(0);
    const T *c = static_cast<const T *>(out.coefficients) + 4 * o;
    Vector<T> first = {}, second = {};
    T rest[2] = {};
    const auto each_run = [&](auto body) {
        for (Index b = 0; b < tile.images; b++)
            for (Index y = 0; y < runs; y++)
                body(plane<T>(out.maps, n, tile.image + b, o) + (tile.top + y) * width + tile.left,
                     b * size + y * run, b, y);
    };
    each_run([&](T *to, Index from, Index b, Index y) {
        const T *z = out.writing == gradients
                         ? static_cast<const T *>(out.z) + ((tile.image + b) * out.maps.fields[0] + o) * n * height * width +
                               (tile.top + y) * width + tile.left
                         : nullptr;
        for (Index x = 0; x < run; x += step) {
            Vector<T> in[n], values[n];
            for (int i = 0; i < n; i++) in[i] = load(v + i * component + from + x);
            G::transposed(in, values);
            const Index count = std::min(step, run - x);
            for (int g = 0; g < n; g++) {
                T *there = to + g * height * width + x;
                values[g] += bias;
                if (out.writing == rectified) values[g] = values[g] < 0 ? Vector<T>{} : values[g];
                if (count == step) {
                    store(there, values[g]);
                    if (out.writing == moments) first += values[g];
                    if (out.writing == gradients) {
                        const Vector<T> at = load(z + g * height * width + x);
                        const Vector<T> masked = c[0] * at + c[1] > 0 ? values[g] : Vector<T>{};
                        first += masked;
                        second += masked * (c[2] * at + c[3]);
                    }
                } else
                    for (Index l = 0; l < count; l++) {
                        const T value = there[l] = values[g][l];
                        if (out.writing == moments) rest[0] += value;
                        if (out.writing == gradients) {
                            const T at = z[g * height * width + x + l];
                            const T masked = c[0] * at + c[1] > 0 ? value : T(0);
                            rest[0] += masked;
                            rest[1] += masked * (c[2] * at + c[3]);
                        }
                    }
            }
        }
    });
    Sums sums;
    sums.first = total<T>(first) + rest[0];
    if (out.writing == moments) {  // the values are still in the cache: about their own mean nothing cancels
        sums.first /= double(n * tile.size());
        const T mean = T(sums.first);
        rest[1] = 0;
        each_run([&](const T *to, Index, Index, Index) {
            for (int g = 0; g < n; g++) {
                const T *there = to + g * height * width;
                Index x = 0;
                for (; x + step <= run; x += step) {
                    const Vector<T> difference = load(there + x) - mean;
                    second += difference * difference;
                }
                for (; x < run; x++) rest[1] += (there[x] - mean) * (there[x] - mean);
            }
        });
    }
    sums.second = total<T>(second) + rest[1];
    return sums;
}

// Of all tiles, in their order: mean and variance, or the sums.
void join(const std::vector<Sums> &parts, const std::vector<Tile> &grid, Index fields, int order, Index writing,
          double *sums) {
    for (Index o = 0; o < fields; o++) {
        double count = 0, first = 0, second = 0;
        for (std::size_t i = 0; i < grid.size(); i++) {
            const Sums &part = parts[i * fields + o];
            if (writing == gradients) {
                first += part.first;
                second += part.second;
                continue;
            }
            const double more = double(order * grid[i].size()), difference = part.first - first;
            first += difference * more / (count + more);  // Chan, Golub and LeVeque 1979
            second += part.second + difference * difference * count * more / (count + more);
            count += more;
        }
        sums[2 * o] = first;
        sums[2 * o + 1] = writing == gradients ? second : second / count;
    }
}

// out^(y) = sum_s v^_s(y) phi^_s with v_s(h; y) = f(h, stride * y + taps[s, h]), 0 beyond the border of f.
template <class G, class T>
void gather(const Source &f, const T *weight, const Target &out, const Index *taps, Index n_taps, Index stride,
            int threads) {
    const Index fields = f.maps.fields[0] + f.maps.fields[1], outputs = out.maps.fields[0] + out.maps.fields[1];
    constexpr Index entries = G::rows ? G::lines + 4 : G::lines;
    const Index block = fields_at_once<G, T>(fields, n_taps, tile_positions);
    const std::vector<Tile> grid = tiles(out.maps.batch, out.maps.height, out.maps.width, tile_positions);
    const Index n_tiles = Index(grid.size());
    Index groups = 1;  // of output fields: with few tiles, several threads share one
    while (n_tiles * groups < 4 * threads && outputs >= 16 * groups) groups *= 2;
    std::vector<Sums> parts(out.writing < moments ? 0 : n_tiles * outputs);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Index item = 0; item < n_tiles * groups; item++) {
        const Tile &tile = grid[item / groups];
        const Index first = outputs * (item % groups) / groups, last = outputs * (item % groups + 1) / groups;
        const Index room = pitch<T>(tile.size());
        T *v = scratch<T>(1, G::order * block * n_taps * room), *sums = scratch<T>(2, G::order * (last - first) * room);
        for (Index k = 0; k < fields; k += block) {
            const Index count = std::min(block, fields - k);
            analyse<G, T>(f, k, count, tile, taps, n_taps, stride, room, v);
            multiply_components<G, T>(weight + k * n_taps * outputs * entries, outputs, first, last - first, v,
                                      count * n_taps, room, tile.size(), sums, k > 0);
        }
        for (Index o = first; o < last; o++) {
            const Sums found = write<G, T>(out, o, tile, sums + (o - first) * room, (last - first) * room);
            if (out.writing >= moments) parts[item / groups * outputs + o] = found;
        }
    }
    if (out.writing >= moments) join(parts, grid, outputs, G::order, out.writing, out.sums);
}

// Adds the planes of output field o, whose components are those of every tap, (taps, positions), to what is there.
template <class G, class T>
void add_taps(const Target &out, Index o, const Tile &tile, const Window &window, const Index *taps, Index n_taps,
              const T *v, Index pitch, Index component) {
    constexpr int n = G::order;
    constexpr Index step = lanes<T>;
    const Index height = out.maps.height, width = out.maps.width;
    T *sum = scratch<T>(3, n * window.size() + step);
    const std::vector<Run> runs = window.runs(height, width);
    typedef std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t> Integer;
    Vector<Integer> lane;
    for (Index l = 0; l < step; l++) lane[l] = Integer(l);
    for (Index b = 0; b < tile.images; b++) {
        std::fill(sum, sum + n * window.size() + step, T(0));
        for (Index t = 0; t < n_taps; t++) {
            T *line[n];
            for (int g = 0; g < n; g++) line[g] = sum + g * window.size() + window.start(taps + 2 * (t * n + g));
            for (Index y = 0; y < tile.rows; y++)
                for (Index x = 0; x < tile.columns; x += step) {
                    const T *from = v + t * pitch + (b * tile.rows + y) * tile.columns + x;
                    const auto inside = lane < Integer(std::min(step, tile.columns - x));
                    Vector<T> in[n], values[n];
                    for (int c = 0; c < n; c++) in[c] = inside ? load(from + c * component) : Vector<T>{};
                    G::transposed(in, values);
                    for (int g = 0; g < n; g++) {
                        T *there = line[g] + y * window.columns + x;
                        store<T>(there, load(there) + values[g]);
                    }
                }
        }
        for (int g = 0; g < n; g++) {
            T *there = plane<T>(out.maps, n, tile.image + b, o) + g * height * width;
            const T *own = sum + g * window.size();
            for (const Run &run : runs)
                for (Index x = 0; x < run.count; x++) there[run.from + window.stride * x] += own[run.to + x];
        }
    }
}

// out(g, stride * y + taps[t, g]) += O_t(g; y) with O^_t(y) = f^(y) psi^_t, where that lies inside.
template <class G, class T>
void scatter(const Source &f, const T *weight, const Target &out, const Index *taps, Index n_taps, Index stride,
             int threads) {
    constexpr int n = G::order;
    constexpr Index entries = G::rows ? G::lines + 4 : G::lines;
    const Index fields = f.maps.fields[0] + f.maps.fields[1], outputs = out.maps.fields[0], rows = outputs * n_taps;
    const Index block = fields_at_once<G, T>(fields, 1, tile_positions);
    const Index in_place[2 * n] = {};
    const std::vector<Tile> grid = tiles(f.maps.batch, f.maps.height, f.maps.width, tile_positions);
    if (grid.empty()) return;
    // Neighbouring tiles write to the same pixels, so one thread has all of an image.
    std::vector<Index> firsts = {0};
    for (std::size_t i = 1; i < grid.size(); i++)
        if (grid[i].image != grid[i - 1].image) firsts.push_back(Index(i));
    firsts.push_back(Index(grid.size()));
    const Index images = Index(firsts.size()) - 1;
    Index together = std::max<Index>(1, 2 * tile_bytes / (n * n_taps * tile_positions * Index(sizeof(T))));
    const Index enough = (4 * threads + images - 1) / images;  // so that every thread has something to do
    together = std::max<Index>(1, std::min(together, outputs / enough));
    const Index groups = (outputs + together - 1) / together;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (Index item = 0; item < images * groups; item++) {
        const Index first = outputs * (item % groups) / groups, last = outputs * (item % groups + 1) / groups;
        const Index count = last - first, of = item / groups;
        for (Index i = firsts[of]; i < firsts[of + 1]; i++) {
            const Tile &tile = grid[i];
            const Index room = pitch<T>(tile.size()), component = count * n_taps * room;
            T *v = scratch<T>(1, n * block * room), *sums = scratch<T>(2, n * component);
            for (Index k = 0; k < fields; k += block) {
                const Index depth = std::min(block, fields - k);
                analyse<G, T>(f, k, depth, tile, in_place, 1, 1, room, v);
                multiply_components<G, T>(weight + k * rows * entries, rows, first * n_taps, count * n_taps, v, depth,
                                          room, tile.size(), sums, k > 0);
            }
            const Window window(taps, n_taps * n, stride, tile.top, tile.left, tile.rows, tile.columns);
            for (Index o = first; o < last; o++) {
                if (i == firsts[of])  // nobody has written there
                    for (Index b = 0; b < tile.images; b++) {
                        T *planes = plane<T>(out.maps, n, tile.image + b, o);
                        std::fill(planes, planes + n * out.maps.height * out.maps.width,
                                  out.bias ? static_cast<const T *>(out.bias)[o] : T(0));
                    }
                add_taps<G, T>(out, o, tile, window, taps, n_taps, sums + (o - first) * n_taps * room, room, component);
            }
        }
    }
}

// Adds the products of f^ and of the v^ of some fields of e, `columns` = fields * taps, summed over a tile, to sums (entry,
// inputs, all), from column `first` on. An entry (j, l) of the irrep of dimension 2 is summed over its rows.
template <class G, class T>
void add_to_gradient(const T *f_hat, Index inputs, const T *v, Index columns, Index room, Index positions, T *sums, Index all,
                     Index first) {
    constexpr int lines = G::lines, entries = G::rows ? lines + 4 : lines;
    const Index f_component = inputs * room, v_component = columns * room;
    for (int c = 0; c < lines; c++)
        add_inner_products(f_hat + c * f_component, inputs, v + c * v_component, columns, room, positions, Index(1),
                           Index(0), Index(0), sums + c * inputs * all + first, all);
    for (int entry = 0; entry < entries - lines; entry++)
        add_inner_products(f_hat + (lines + entry / 2) * f_component, inputs, v + (lines + entry % 2) * v_component,
                           columns, room, positions, Index(G::rows), 2 * f_component, 2 * v_component,
                           sums + (lines + entry) * inputs * all + first, all);
}

// No sum may have what is beyond the last position.
template <class T> void clear_rest(T *rows, Index count, Index positions, Index room) {
    for (Index row = 0; row < count; row++) std::fill(rows + row * room + positions, rows + row * room + room, T(0));
}

// From `copies` of such sums, (entry, inputs, outputs, taps), to the gradient of psi.
template <class G, class T>
void to_filter(const T *sums, Index copies, T *psi, const std::int32_t *table, Index n_taps, Index inputs, Index outputs,
               bool adjoint, int threads) {
    constexpr int n = G::order, lines = G::lines, entries = G::rows ? lines + 4 : lines;
    const Index entry = inputs * outputs * n_taps;
    const Taps<T> permuted(table, n, n_taps);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index k = 0; k < inputs; k++)
        for (Index o = 0; o < outputs; o++) {
            T *to = psi + (adjoint ? o * inputs + k : k * outputs + o) * n * n_taps;
            for (Index t = 0; t < n_taps; t += lanes<T>) {
                Vector<T> found[entries] = {}, v[n], phi[n];
                for (Index copy = 0; copy < copies; copy++)
                    for (int c = 0; c < entries; c++)
                        found[c] += load(sums + (copy * entries + c) * entry + (k * outputs + o) * n_taps + t);
                for (int c = 0; c < lines; c++) v[c] = found[c] / n;
                if constexpr (G::rows > 0) {
                    for (int c = lines; c < n; c++) v[c] = found[c] * (T(2) / n);
                    if constexpr (G::rows == 1) {  // the other row is the same up to sign and order
                        v[lines] += found[lines + 3] * (T(2) / n);
                        v[lines + 1] -= found[lines + 2] * (T(2) / n);
                    }
                }
                G::transposed(v, phi);
                for (int u = 0; u < n; u++) permuted.write(to, u, t, phi[u]);
            }
        }
}

// The gradient of psi: products of f^ and of the v^ of e, v_s(h; y) = e(h, stride * y + taps[s, h]), summed over y.
template <class G, class T>
void filter_gradient(const Source &e, const Source &f, T *psi, const std::int32_t *table, const Index *taps,
                     Index n_taps, Index stride, bool adjoint, int threads) {
    constexpr int n = G::order, entries = G::rows ? G::lines + 4 : G::lines;
    const Index inputs = f.maps.fields[0] + f.maps.fields[1], outputs = e.maps.fields[0];
    const Index in_place[2 * n] = {};
    const std::vector<Tile> grid = tiles(f.maps.batch, f.maps.height, f.maps.width, summed_positions);
    const Index n_tiles = Index(grid.size());
    // Threads share the tiles, each with sums of its own, or if these are large, the fields of e.
    const Index size = entries * inputs * outputs * n_taps;
    const bool shares_tiles = size * Index(sizeof(T)) <= 2 * tile_bytes && n_tiles >= threads;
    const Index copies = shares_tiles ? threads : 1;
    T *sums = scratch<T>(3, copies * size + lanes<T>);
    std::fill(sums, sums + copies * size, T(0));
    const Index block = fields_at_once<G, T>(outputs, n_taps, summed_positions);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        T *own = sums + (shares_tiles ? thread * size : 0);
        const Index first = shares_tiles ? 0 : outputs * thread / threads;
        const Index last = shares_tiles ? outputs : outputs * (thread + 1) / threads;
        for (Index i = shares_tiles ? thread : 0; i < n_tiles && first < last; i += shares_tiles ? threads : 1) {
            const Tile &tile = grid[i];
            const Index positions = tile.size(), room = pitch<T>(positions);
            T *f_hat = scratch<T>(1, n * inputs * room), *v = scratch<T>(2, n * block * n_taps * room);
            analyse<G, T>(f, 0, inputs, tile, in_place, 1, 1, room, f_hat);
            clear_rest(f_hat, n * inputs, positions, room);
            for (Index o = first; o < last; o += block) {
                const Index count = std::min(block, last - o), columns = count * n_taps;
                analyse<G, T>(e, o, count, tile, taps, n_taps, stride, room, v);
                clear_rest(v, n * columns, positions, room);
                add_to_gradient<G, T>(f_hat, inputs, v, columns, room, positions, own, outputs * n_taps, o * n_taps);
            }
        }
    }
    to_filter<G, T>(sums, copies, psi, table, n_taps, inputs, outputs, adjoint, threads);
}

// Whether both gradients come from one transform of e: if there is room for all of a tile, and for the sums of every thread.
template <class G, class T> bool joins_gradients(const Source &e, const Source &f, Index n_taps, int threads) {
    constexpr Index entries = G::rows ? G::lines + 4 : G::lines;
    const Index inputs = f.maps.fields[0] + f.maps.fields[1], outputs = e.maps.fields[0];
    const Index sums = entries * inputs * outputs * n_taps * Index(sizeof(T));
    const Index n_tiles = Index(tiles(f.maps.batch, f.maps.height, f.maps.width, summed_positions).size());
    return inputs <= 48 && sums <= 2 * tile_bytes && n_tiles >= 4 * threads;
}

// Both gradients: `gather` of e to the input's, and `filter_gradient`. The weight is prepared for
// `summed_positions`.
template <class G, class T>
void both_gradients(const Source &e, const Source &f, const T *weight, const Target &out, T *psi, const std::int32_t *table,
               const Index *taps, Index n_taps, Index stride, int threads) {
    constexpr int n = G::order;
    constexpr Index entries = G::rows ? G::lines + 4 : G::lines;
    const Index inputs = f.maps.fields[0] + f.maps.fields[1], outputs = e.maps.fields[0];
    const Index in_place[2 * n] = {};
    const Index block = fields_at_once<G, T>(outputs, n_taps, summed_positions);
    const std::vector<Tile> grid = tiles(f.maps.batch, f.maps.height, f.maps.width, summed_positions);
    const Index n_tiles = Index(grid.size()), size = entries * inputs * outputs * n_taps;
    std::vector<Sums> parts(out.writing < moments ? 0 : n_tiles * inputs);
    T *gradient = scratch<T>(3, threads * size + lanes<T>);
    std::fill(gradient, gradient + threads * size, T(0));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (Index i = thread; i < n_tiles; i += threads) {
            const Tile &tile = grid[i];
            const Index positions = tile.size(), room = pitch<T>(positions);
            T *v = scratch<T>(1, n * block * n_taps * room), *memory = scratch<T>(2, 2 * n * inputs * room);
            T *f_hat = memory, *sums = memory + n * inputs * room;
            analyse<G, T>(f, 0, inputs, tile, in_place, 1, 1, room, f_hat);
            clear_rest(f_hat, n * inputs, positions, room);
            for (Index o = 0; o < outputs; o += block) {
                const Index count = std::min(block, outputs - o), columns = count * n_taps;
                analyse<G, T>(e, o, count, tile, taps, n_taps, stride, room, v);
                clear_rest(v, n * columns, positions, room);
                multiply_components<G, T>(weight + o * n_taps * inputs * entries, inputs, Index(0), inputs, v, columns, room,
                                          positions, sums, o > 0);
                add_to_gradient<G, T>(f_hat, inputs, v, columns, room, positions, gradient + thread * size,
                                      outputs * n_taps, o * n_taps);
            }
            for (Index k = 0; k < inputs; k++) {
                const Sums found = write<G, T>(out, k, tile, sums + k * room, inputs * room);
                if (out.writing >= moments) parts[i * inputs + k] = found;
            }
        }
    if (out.writing >= moments) join(parts, grid, inputs, n, out.writing, out.sums);
    to_filter<G, T>(gradient, Index(threads), psi, table, n_taps, inputs, outputs, true, threads);
}

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

EXPORT_POOL(float32, float)
EXPORT_POOL(float64, double)
EXPORT_ELEMENTWISE(float32, float)
EXPORT_ELEMENTWISE(float64, double)

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

EXPORT(1_1_float32, C1, float)
EXPORT(2_2_float32, C2, float)
EXPORT(4_4_float32, D2, float)
EXPORT(4_2_float32, C4, float)
EXPORT(8_4_float32, D4, float)
EXPORT(1_1_float64, C1, double)
EXPORT(2_2_float64, C2, double)
EXPORT(4_4_float64, D2, double)
EXPORT(4_2_float64, C4, double)
EXPORT(8_4_float64, D4, double)
