// The convolution and the transposed one.

#pragma once

#include "filters.h"
#include "reading.h"
#include "writing.h"

namespace {

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

}  // namespace
