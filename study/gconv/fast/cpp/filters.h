// From what is learned to the matrices by which components are multiplied, and back for the gradient.

#pragma once

#include "maps.h"
#include <type_traits>

namespace {

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

}  // namespace
