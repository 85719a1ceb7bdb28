// The gradients of input and filter.

#pragma once

#include "convolutions.h"

namespace {

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

}  // namespace
