"""The Fourier form of :mod:`study.gconv.fast.fourier` on a GPU, in Triton, without the ``v^`` in the GPU's memory.

A program computes a tile of positions and of fields. It reads |G| shifted tiles of the feature map, one for each
orientation, transforms them in registers by additions alone, and multiplies the |G| components, on tensor cores, by the
matrices of their irreps. The |G| sums stay in registers, in float32 whatever the dtype, and are transformed back at the
end. There are no atomics: with the same tiles, the same input gives the same bits.

In the shapes, T counts taps, K input fields and O output fields. A position is a pixel of an image, ``(b, y, x)``;
positions are counted in this order, and lie along the last axis of a tile, as neighbours in memory do.
"""

from __future__ import annotations  # Triton's names below may be missing

from functools import cache

import torch
from torch import Tensor

from study.groups import P4, P4M

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

GROUPS = (P4, P4M)
"""The groups that have kernels."""

INTERPRETED = triton is not None and triton.knobs.runtime.interpret
"""Whether Triton runs kernels on the CPU, slowly (``TRITON_INTERPRET=1``), as the tests do."""

TILES = {
    "gather": {
        "any": [(64, 16, 32, 8, 3), (64, 32, 32, 8, 2), (64, 32, 16, 4, 3)],
        "hopper": [(32, 32, 64, 8, 2), (64, 32, 64, 8, 2), (32, 16, 64, 4, 3)],
    },
    "filter_gradient": {
        "any": [(16, 32, 64, 8, 2), (32, 16, 64, 8, 2), (32, 16, 32, 4, 2)],
        "hopper": [(32, 64, 32, 8, 2), (32, 64, 64, 8, 2), (16, 64, 64, 8, 3)],
    },
    "interpreted": [(32, 16, 16, 4, 1)],
}
"""(positions, input fields, output fields) of a tile, warps and stages; the fastest is found on the first call.

|G| float32 sums for each position and field leave few registers. With these tiles hardly anything spills: the first on
any GPU, those for Hopper only where four warps multiply together (wgmma), which takes 64 rows.
"""

MOST_FIELDS, MOST_POSITIONS = 64, 64
"""Multiples of all tiles' sizes, to which the factors that are read most are padded with zeros."""

PARTIAL_BYTES = 2**28
"""Bytes for the products of a transposed convolution before they are added; one image may need more."""

PROGRAMS = 512
"""Number of programs for the gradient of a filter, if there are enough positions: a few for each processor."""


def available(device_type: str) -> bool:
    """Whether the kernels run on such a device, "cpu" or "cuda"."""
    if INTERPRETED:
        return device_type == "cpu"
    return triton is not None and device_type == "cuda" and torch.version.hip is None


def gather(f: Tensor, weight: tuple[Tensor, Tensor], taps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """``out^(y) = sum_s v^_s(y) phi^_s`` with ``v_s(h; y) = f(h, stride * y + taps[s, h])``, 0 beyond the border of f.

    Shapes: f ``(B, K, |G|, H, W)``; weight ``(lines, O, T * K)`` and ``(2 * O, 2 * T * K)``; taps ``(T, |G|, 2)``, on
    the CPU -> ``(B, O, |G|, *size)``.
    """
    f = f.contiguous()
    images, fields, order, height, width = f.shape
    outputs, positions = weight[0].shape[1], images * size[0] * size[1]
    padded = _padded(*weight, len(taps))
    out = f.new_empty(images, outputs, order, *size)

    def grid(tile: dict) -> tuple[int]:
        return (triton.cdiv(outputs, tile["BLOCK_O"]) * triton.cdiv(positions, tile["BLOCK_P"]),)

    with torch.cuda.device_of(f):
        _gather_kernel[grid](
            f, padded, _on_device(taps, f.device), out, len(taps), fields, outputs, *padded.shape[:1:-1], positions,
            height, width, *size, order, stride, _index_type(f, out), _precision(f.dtype),
        )  # fmt: skip
    return out


def scatter(f: Tensor, weight: tuple[Tensor, Tensor], taps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """``out(g, stride * y + taps[t, g]) += O_t(g; y)`` with ``O^_t(y) = f^(y) psi^_t``.

    Shapes: f ``(B, K, |G|, H, W)``; weight ``(lines, T * O, K)`` and ``(2 * T * O, 2 * K)``; taps ``(T, |G|, 2)``, on
    the CPU -> ``(B, O, |G|, *size)``.
    """
    f = f.contiguous()
    products, order, height, width = weight[0].shape[1], *f.shape[2:]  # T * O fields of products, one of each tap
    out = f.new_empty(len(f), products // len(taps), order, *size)
    images = max(1, PARTIAL_BYTES // (products * order * height * width * f.element_size()))
    in_place, table = torch.zeros_like(taps[:1]), _on_device(taps, f.device)
    # Products of several positions fall on the same pixel. Each pixel fetches its own, so that no program waits.
    for part, target in zip(f.split(images), out.split(images), strict=True):
        partial = gather(part, weight, in_place, 1, (height, width))
        with torch.cuda.device_of(f):
            _add_taps[(target.shape[:3].numel() * triton.cdiv(size[0] * size[1], 512),)](
                partial, table, target, len(taps), out.shape[1], height, width, *size, order, stride, 512
            )
    return out


def filter_gradient(e: Tensor, f: Tensor, taps: Tensor, stride: int, lines: int) -> tuple[Tensor, Tensor]:
    """For every irrep ``sum_y f^(y)^T v^_s(y)`` with ``v_s(h; y) = e(h, stride * y + taps[s, h])``, y in the grid of f.

    Shapes: e ``(B, O, |G|, H', W')``; f ``(B, K, |G|, H, W)``; taps ``(T, |G|, 2)``, on the CPU; lines, the number of
    irreps of dimension 1 -> ``(lines, K, T * O)`` and ``(2 * K, 2 * T * O)``, in float32.
    """
    e, f = e.contiguous(), f.contiguous()
    (_, fields, order, height, width), outputs, n_taps = f.shape, e.shape[1], len(taps)
    f_hat = _transformed(f)
    # Few fields would keep few programs busy, so the positions are divided too. Every part has a sum of its own.
    tiles = n_taps * triton.cdiv(fields, 32) * triton.cdiv(outputs, 64)
    parts = max(1, min(triton.cdiv(PROGRAMS, tiles), f_hat.shape[-1] // 256))
    part = triton.cdiv(f_hat.shape[-1], parts * MOST_POSITIONS) * MOST_POSITIONS
    sums = f.new_empty(parts, lines + 4, fields * n_taps * outputs, dtype=torch.float32)

    def grid(tile: dict) -> tuple[int, int]:
        return n_taps * triton.cdiv(fields, tile["BLOCK_K"]) * triton.cdiv(outputs, tile["BLOCK_O"]), parts

    with torch.cuda.device_of(f):
        _filter_gradient_kernel[grid](
            e, f_hat, _on_device(taps, f.device), sums, n_taps, fields, outputs, len(f) * height * width,
            f_hat.shape[-1], part, height, width, *e.shape[3:], order, stride, _index_type(e, f_hat),
            _precision(f.dtype),
        )  # fmt: skip
    total = sums.sum(0)
    return total[:lines].view(lines, fields, -1), total[lines:].view(2 * fields, -1)


def _transformed(f: Tensor) -> Tensor:
    """``f^ (|G|, K, positions)`` with zeros to whole tiles: every tap needs it, so it is worth its memory."""
    images, fields, order, height, width = f.shape
    positions = images * height * width
    blocks = triton.cdiv(positions, MOST_POSITIONS)
    f_hat = f.new_empty(order, fields, blocks * MOST_POSITIONS)
    in_place = _on_device(torch.zeros(order, 2, dtype=torch.int64), f.device)
    with torch.cuda.device_of(f):
        _transform_kernel[(blocks * triton.cdiv(fields, 8),)](
            f, in_place, f_hat, fields, positions, height, width, order, _index_type(f_hat), MOST_POSITIONS, 8
        )
    return f_hat


def _padded(one: Tensor, two: Tensor, n_taps: int) -> Tensor:
    """The matrices ``(lines + 4, T, O, K)`` with zeros to whole tiles: loaded unmasked, 16 bytes at a time."""
    lines, outputs, fields = len(one), one.shape[1], one.shape[2] // n_taps
    shape = (triton.cdiv(size, MOST_FIELDS) * MOST_FIELDS for size in (outputs, fields))
    padded = one.new_zeros(lines + 4, n_taps, *shape)
    padded[:lines, :, :outputs, :fields] = one.reshape(lines, outputs, n_taps, fields).transpose(1, 2)
    entries = two.reshape(2, outputs, 2, n_taps, fields).permute(0, 2, 3, 1, 4)  # (j, l, T, O, K)
    padded[lines:].unflatten(0, (2, 2))[..., :outputs, :fields] = entries
    return padded


def _on_device(taps: Tensor, device: torch.device) -> Tensor:
    return _copy_of_taps(tuple(taps.flatten().tolist()), device)


@cache
def _copy_of_taps(taps: tuple[int, ...], device: torch.device) -> Tensor:
    """Cached, since computing it would wait for the GPU."""
    return torch.tensor(taps, dtype=torch.int32, device=device)


def _index_type(*tensors: Tensor):
    """The type of offsets into such tensors: 32 bits take fewer registers."""
    return tl.int64 if max(tensor.numel() for tensor in tensors) >= 2**31 else tl.int32


def _precision(dtype: torch.dtype) -> str:
    """The precision of the factors: float32 is rounded to TF32 where PyTorch's own convolutions do so."""
    return "ieee" if dtype == torch.float32 and not torch.backends.cudnn.allow_tf32 else "tf32"


def _kernel(tiles: str | None = None):
    """A Triton kernel, or function called by one; given the name of its tiles, it runs with the fastest of them."""

    def make(function):
        if triton is None:
            return function
        kernel = triton.jit(function)
        if tiles is None:
            return kernel
        configs = {
            kind: [
                triton.Config({"BLOCK_P": p, "BLOCK_K": k, "BLOCK_O": o}, num_warps=warps, num_stages=stages)
                for p, k, o, warps, stages in table
            ]
            for kind, table in ({"any": TILES["interpreted"]} if INTERPRETED else TILES[tiles]).items()
        }

        def fitting(_, arguments: dict, **__) -> list[triton.Config]:
            if torch.are_deterministic_algorithms_enabled():  # on the first call with such fields
                return configs["any"][:1]  # another tile adds in another order
            wgmma = torch.cuda.get_device_capability()[0] == 9 and arguments["PRECISION"] != "ieee"
            return configs["any"] + (configs["hopper"] if wgmma else [])

        return triton.autotune(
            [config for table in configs.values() for config in table],
            key=["fields", "outputs", "ORDER", "PRECISION"],  # and the dtypes
            prune_configs_by={"early_config_prune": fitting},
            do_bench=lambda call, quantiles: triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles),
            cache_results=True,
        )(kernel)

    return make


@_kernel()
def _c4(x0, x1, x2, x3):
    """The transform of four values on the turns; this and the others are those of cpp/fourier.h."""
    even, odd = x0 + x2, x1 + x3
    return even + odd, even - odd, x0 - x2, x3 - x1


@_kernel()
def _c4_transposed(v0, v1, v2, v3):
    even, odd = v0 + v1, v0 - v1
    return even + v2, odd - v3, even - v2, odd + v3


@_kernel()
def _transform(x, ORDER: tl.constexpr):
    """From |G| tiles, one for every element, to |G| tiles, one for every component."""
    if ORDER == 4:
        return _c4(x[0], x[1], x[2], x[3])
    else:
        t0, t1, t2, t3 = _c4(x[0], x[1], x[2], x[3])
        m0, m1, m2, m3 = _c4(x[4], x[5], x[6], x[7])
        return t0 + m0, t1 + m1, t0 - m0, t1 - m1, t2 + m2, t3 - m3, -t3 - m3, t2 - m2


@_kernel()
def _transform_transposed(v, ORDER: tl.constexpr):
    """From |G| tiles, one for every component, to |G| tiles, one for every element."""
    if ORDER == 4:
        return _c4_transposed(v[0], v[1], v[2], v[3])
    else:
        turned = _c4_transposed(v[0] + v[2], v[1] + v[3], v[4] + v[7], v[5] - v[6])
        mirrored = _c4_transposed(v[0] - v[2], v[1] - v[3], v[4] - v[7], -v[5] - v[6])
        return turned + mirrored


@_kernel()
def _analyse(f, tap, b, y, x, inside, k, fields, H, W, ORDER: tl.constexpr, INDEX: tl.constexpr):
    """The components of ``f(b, k, h, y + tap[h, 0], x + tap[h, 1])``: |G| tiles (fields, positions), in f's dtype."""
    offsets = k.to(INDEX)[:, None] * (ORDER * H * W) + (b.to(INDEX) * fields * (ORDER * H * W) + y * W + x)[None, :]
    values = ()
    for h in tl.static_range(ORDER):
        down, right = tl.load(tap + 2 * h), tl.load(tap + 2 * h + 1)
        read = inside & (y + down >= 0) & (y + down < H) & (x + right >= 0) & (x + right < W)
        there = f + ((h * H + down) * W + right)
        values += (tl.load(there + offsets, (k < fields)[:, None] & read[None, :], 0.0).to(tl.float32),)
    components = _transform(values, ORDER)
    rounded = ()
    for c in tl.static_range(ORDER):
        rounded += (components[c].to(f.dtype.element_ty),)
    return rounded


@_kernel("gather")
def _gather_kernel(
    f, weight, taps, out, n_taps, fields, outputs, K_PADDED, O_PADDED, positions, H, W, rows, columns,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """A tile (BLOCK_O fields, BLOCK_P positions) of the output. Programs of the same positions are neighbours."""
    LINES: tl.constexpr = ORDER // 2
    tiles = tl.cdiv(outputs, BLOCK_O)
    o = tl.program_id(0) % tiles * BLOCK_O + tl.arange(0, BLOCK_O)
    p = tl.program_id(0) // tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < positions
    b, y, x = p // columns // rows, p // columns % rows, p % columns

    sums = ()
    for _ in tl.static_range(ORDER):
        sums += (tl.zeros((BLOCK_O, BLOCK_P), tl.float32),)
    steps = tl.cdiv(fields, BLOCK_K)
    matrix = n_taps * O_PADDED * K_PADDED
    for step in range(n_taps * steps):  # one loop, not two, for the compiler to load ahead in
        t = step // steps
        k = step % steps * BLOCK_K + tl.arange(0, BLOCK_K)
        v = _analyse(f, taps + t * 2 * ORDER, b, STRIDE * y, STRIDE * x, inside, k, fields, H, W, ORDER, INDEX)
        entry = weight + (t * O_PADDED + o)[:, None] * K_PADDED + k[None, :]
        more = ()
        for i in tl.static_range(LINES):
            more += (tl.dot(tl.load(entry + i * matrix), v[i], sums[i], input_precision=PRECISION),)
        entry += LINES * matrix
        w00, w01 = tl.load(entry), tl.load(entry + matrix)
        w10, w11 = tl.load(entry + 2 * matrix), tl.load(entry + 3 * matrix)
        for i in tl.static_range(LINES, ORDER, 2):  # the rows of the irrep have the same matrix
            first = tl.dot(w00, v[i], sums[i], input_precision=PRECISION)
            second = tl.dot(w10, v[i], sums[i + 1], input_precision=PRECISION)
            more += (tl.dot(w01, v[i + 1], first, input_precision=PRECISION),)
            more += (tl.dot(w11, v[i + 1], second, input_precision=PRECISION),)
        sums = more

    values = _transform_transposed(sums, ORDER)
    planes = o.to(INDEX)[:, None] * ORDER + b[None, :] * (outputs * ORDER)
    for g in tl.static_range(ORDER):
        offsets = (planes + g) * (rows * columns) + (y * columns + x)[None, :]
        tl.store(out + offsets, values[g].to(out.dtype.element_ty), (o < outputs)[:, None] & inside[None, :])


@_kernel()
def _transform_kernel(
    f, in_place, f_hat, fields, positions, H, W,
    ORDER: tl.constexpr, INDEX: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile (BLOCK_K, BLOCK_P) of all components."""
    tiles = tl.cdiv(fields, BLOCK_K)
    k = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    p = tl.program_id(0) // tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    v = _analyse(f, in_place, p // W // H, p // W % H, p % W, p < positions, k, fields, H, W, ORDER, INDEX)
    padded = tl.cdiv(positions, BLOCK_P) * BLOCK_P
    for c in tl.static_range(ORDER):
        tl.store(f_hat + ((c * fields + k).to(INDEX)[:, None] * padded + p[None, :]), v[c], (k < fields)[:, None])


@_kernel("filter_gradient")
def _filter_gradient_kernel(
    e, f_hat, taps, sums, n_taps, fields, outputs, positions, padded, part, H, W, e_rows, e_columns,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, INDEX: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """A tile (BLOCK_K, BLOCK_O) of every irrep's gradient for one tap, summed over ``part`` of the positions."""
    LINES: tl.constexpr = ORDER // 2
    tiles_o, tiles_k = tl.cdiv(outputs, BLOCK_O), tl.cdiv(fields, BLOCK_K)
    o = tl.program_id(0) % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    k = tl.program_id(0) // tiles_o % tiles_k * BLOCK_K + tl.arange(0, BLOCK_K)
    t = tl.program_id(0) // (tiles_o * tiles_k)

    products = ()
    for _ in tl.static_range(LINES + 4):
        products += (tl.zeros((BLOCK_K, BLOCK_O), tl.float32),)
    component = padded.to(INDEX) * fields
    start = tl.program_id(1) * part
    for first in range(start, tl.minimum(start + part, positions), BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        v = _analyse(
            e, taps + t * 2 * ORDER, p // W // H, STRIDE * (p // W % H), STRIDE * (p % W), p < positions,
            o, outputs, e_rows, e_columns, ORDER, INDEX,
        )  # fmt: skip
        factors = f_hat + (k.to(INDEX)[:, None] * padded + p[None, :])
        more = ()
        for i in tl.static_range(LINES):
            x = tl.load(factors + i * component, (k < fields)[:, None], 0.0)
            more += (tl.dot(x, tl.trans(v[i]), products[i], input_precision=PRECISION),)
        for entry in tl.static_range(4):  # (j, l) of phi^, in which the rows of the irrep are summed
            product = products[LINES + entry]
            for i in tl.static_range(LINES, ORDER, 2):
                x = tl.load(factors + (i + entry // 2) * component, (k < fields)[:, None], 0.0)
                product = tl.dot(x, tl.trans(v[i + entry % 2]), product, input_precision=PRECISION)
            more += (product,)
        products = more

    row, column, columns = k[:, None], (t * outputs + o)[None, :], n_taps * outputs
    there = (row < fields) & (o < outputs)[None, :]
    sums += tl.program_id(1).to(tl.int64) * ((LINES + 4) * fields * columns)
    for i in tl.static_range(LINES):
        tl.store(sums + (i * fields + row) * columns + column, products[i], there)
    sums += LINES * fields * columns
    for entry in tl.static_range(4):
        offsets = ((entry // 2 * fields + row) * 2 + entry % 2) * columns + column
        tl.store(sums + offsets, products[LINES + entry], there)


@_kernel()
def _add_taps(
    partial, taps, out, n_taps, outputs, H, W, rows, columns,
    ORDER: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some pixels of a plane: ``out(g, z) = sum_t partial(t, g, y)`` with ``STRIDE * y + taps[t, g] = z``."""
    tiles = tl.cdiv(rows * columns, BLOCK)
    plane = tl.program_id(0) // tiles
    g, o, b = plane % ORDER, plane // ORDER % outputs, plane // (ORDER * outputs)
    z = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for t in range(n_taps):
        tap = taps + (t * ORDER + g) * 2
        down, right = z // columns - tl.load(tap), z % columns - tl.load(tap + 1)  # STRIDE * y
        read = (down >= 0) & (down < STRIDE * H) & (right >= 0) & (right < STRIDE * W)
        read = read & (down % STRIDE == 0) & (right % STRIDE == 0) & (z < rows * columns)
        source = ((b.to(tl.int64) * n_taps + t) * outputs + o) * ORDER + g
        total += tl.load(partial + source * (H * W) + down // STRIDE * W + right // STRIDE, read, 0.0).to(tl.float32)
    offsets = plane.to(tl.int64) * (rows * columns) + z
    tl.store(out + offsets, total.to(out.dtype.element_ty), z < rows * columns)
