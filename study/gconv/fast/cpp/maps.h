// Feature maps, what becomes of them when they are read and written, and the tiles in which that is done.

#pragma once

#include "fourier.h"

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

// How many input fields have their components at a tile in memory at once.
template <class G, class T> Index fields_at_once(Index fields, Index n_taps, Index positions) {
    const Index most = std::max<Index>(1, tile_bytes / (G::order * n_taps * positions * Index(sizeof(T))));
    const Index parts = (fields + most - 1) / most;
    return (fields + parts - 1) / parts;
}

}  // namespace
