// From components at a tile back to feature maps, with the sums that batch norm needs.

#pragma once

#include "maps.h"
#include "products.h"

namespace {

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

}  // namespace
