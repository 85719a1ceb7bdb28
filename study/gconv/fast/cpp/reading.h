// From feature maps to the components of their Fourier transform, for every tap, at one tile.

#pragma once

#include "maps.h"

namespace {

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

}  // namespace
