"""The Fourier form in C++ (``cpp/``): the same as :mod:`study.gconv.fast.fourier`, in one pass over memory.

The operations around a convolution are done in the same pass, at hardly any cost: batch norm and ReLU while its input
is read (:class:`Reading`), and the sums for batch norm, or another ReLU, while its output is written
(:class:`Writing`). Tensors are float32 or float64, on the CPU and contiguous. Only the order in which the parts of a
filter's gradient are added depends on the number of threads.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.gconv.fast import compiler
from study.gconv.fast.filter_transform import FilterTransform

DTYPES = (torch.float32, torch.float64)

Maps = Sequence[Tensor]
"""Feature maps ``(B, K, |G|, H, W)``: one tensor, or two whose fields are taken together."""


def available(device: str, dtype: torch.dtype) -> bool:
    """Whether there is compiled code for tensors of this kind."""
    return device == "cpu" and dtype in DTYPES and compiler.load() is not None


@dataclass(frozen=True)
class Reading:
    """The operation on a feature map while it is read, with coefficients ``(K, n)`` for each field.

    With n = 2, ``max(0, c0 x + c1)``. With n = 5 the gradient of that, given x, the gradient of its output, and z, its
    input: ``c2 x' + c3 z + c4``, where x' is x if ``c0 z + c1 > 0`` and else 0.
    """

    coefficients: Tensor
    z: Tensor | None = None


@dataclass(frozen=True)
class Writing:
    """The operation on the output while it is written, or the sums of it in ``sums (O, 2)``, in float64.

    Attributes:
        kind: "plain"; "rectified", ``max(0, x)``; "moments": mean and biased variance; or "gradients": the sums of x'
            and of ``x' (c2 z + c3)``, where x' is x if ``c0 z + c1 > 0`` and else 0.
    """

    kind: str = "plain"
    sums: Tensor | None = None
    coefficients: Tensor | None = None
    z: Tensor | None = None


_WRITINGS = ("plain", "rectified", "moments", "gradients")


def prepare(psi: Tensor, filters: FilterTransform, *, joint: bool = False) -> Tensor:
    """The filters ``(O, K, |G|, k, k)`` in the layout of :func:`gather` and :func:`scatter`, or of joint gradients."""
    psi = psi.contiguous()
    outputs, inputs = psi.shape[1::-1] if filters.swaps else psi.shape[:2]
    size = _function("weight_size", filters, psi.dtype)(*_integers(outputs, inputs, len(filters.taps)))
    weight = psi.new_empty(size)
    _function("prepare", filters, psi.dtype)(
        _address(psi),
        _address(weight),
        _address(filters.places),
        *_integers(len(filters.taps), outputs, inputs),
        ctypes.c_int(filters.swaps),
        ctypes.c_int(filters.spreads),
        ctypes.c_int(joint),
        _threads(),
    )
    return weight


def gather(
    f: Maps,
    weight: Tensor,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    out: Maps,
    *,
    bias: Tensor | None = None,
    reading: Reading | None = None,
    writing: Writing | None = None,
) -> None:
    """``out^(y) = sum_s v^_s(y) phi^_s`` with ``v_s(h; y) = f(h, stride * y + taps[s, h])``.

    Shapes: f ``(B, K, |G|, H, W)``; weight, of :func:`prepare`; taps ``(T, |G|, 2)``; out ``(B, O, |G|, H', W')``.
    """
    _convolve("gather", f, weight, filters, taps, stride, out, bias, reading, writing or Writing())


def scatter(
    f: Maps,
    weight: Tensor,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    reading: Reading | None = None,
) -> None:
    """``out(g, stride * y + taps[t, g]) += O_t(g; y)`` with ``O^_t(y) = f^(y) psi^_t``, from zero or the bias."""
    _convolve("scatter", f, weight, filters, taps, stride, [out], bias, reading, Writing())


def filter_gradient(
    e: Tensor,
    f: Maps,
    psi: Tensor,
    filters: FilterTransform,
    taps: Tensor,
    stride: int,
    *,
    reading_e: Reading | None = None,
    reading_f: Reading | None = None,
) -> Tensor:
    """The gradient of psi: products of ``f^`` and of ``v_s(h; y) = e(h, stride * y + taps[s, h])``, summed over y."""
    _check(filters, e.shape[1] * _fields(f) * len(taps), psi, e, *f)
    gradient = psi.new_empty(psi.shape)
    e_source, f_source = _source([e], reading_e), _source(f, reading_f)
    taps = taps.contiguous()
    _function("filter_gradient", filters, psi.dtype)(
        ctypes.byref(e_source),
        ctypes.byref(f_source),
        _address(gradient),
        _address(filters.places),
        _address(taps),
        *_integers(len(taps), stride),
        ctypes.c_int(filters.swaps),
        _threads(),
    )
    return gradient


def gradients(
    e: Tensor,
    f: Maps,
    psi: Tensor,
    group: str,
    padding: int,
    grad_f: Maps | None,
    *,
    upsampling: int | None = None,
    reading_f: Reading | None = None,
    writing: Writing | None = None,
) -> Tensor:
    """The gradients of a convolution of f with stride 1, or of a transposed one that is ``upsampling``.

    The gradient of psi is returned, and that of f is written to ``grad_f`` if it is given.

    Shapes: e, the gradient of the output, ``(B, O, |G|, H', W')``; f and grad_f ``(B, K, |G|, H, W)``.
    """
    kernel_size, psi = psi.shape[-1], psi.contiguous()
    kind = "adjoint convolution" if upsampling is None else "adjoint transposed convolution"
    filters = FilterTransform.get(group, kind, kernel_size, psi)
    stride = upsampling or 1
    taps = (filters.taps - (kernel_size - 1 - padding if upsampling is None else padding)).contiguous()
    _check(filters, e.shape[1] * _fields(f) * len(taps), psi, e, *f, *(grad_f or []))
    if grad_f is not None:
        sources, count = (_source([e], None), _source(f, reading_f)), _integers(len(taps))
        if _function("joins_gradients", filters, psi.dtype)(*map(ctypes.byref, sources), *count, _threads()):
            weight, grad_psi = prepare(psi, filters, joint=True), psi.new_empty(psi.shape)
            target = _target(grad_f, None, writing or Writing())
            _function("gradients", filters, psi.dtype)(
                *map(ctypes.byref, sources),
                _address(weight),
                ctypes.byref(target),
                *map(_address, (grad_psi, filters.places, taps)),
                *count,
                *_integers(stride),
                _threads(),
            )
            return grad_psi
        gather([e], prepare(psi, filters), filters, taps, stride, grad_f, writing=writing)
    if upsampling is None and len(f) == 1 and f[0].shape[1] < e.shape[1]:  # the taps go to the side with fewer fields
        filters = FilterTransform.get(group, "convolution", kernel_size, psi)
        return filter_gradient(f[0], [e], psi, filters, filters.taps - padding, 1, reading_e=reading_f)
    return filter_gradient(e, f, psi, filters, taps, stride, reading_f=reading_f)


def normalise(z: Tensor, coefficients: Tensor) -> Tensor:
    """``max(0, c0 z + c1)`` of a feature map, with coefficients ``(K, 2)``."""
    out = torch.empty_like(z)
    compiler.load()[f"normalise_{_name(z.dtype)}"](_address(z), _address(out), _address(coefficients), *_planes(z))
    return out


def unnormalise(x: Tensor, reading: Reading, out: Tensor) -> Tensor:
    """The gradient of :func:`normalise` and batch norm, as of :class:`Reading`; ``out`` may be x itself."""
    addresses = map(_address, (x, reading.z, out, reading.coefficients))
    compiler.load()[f"unnormalise_{_name(x.dtype)}"](*addresses, *_planes(x))
    return out


def sums(x: Tensor, writing: Writing) -> Tensor:
    """The sums of a :class:`Writing` for an existing feature map: ``(K, 2)``, in float64."""
    *sizes, threads = _planes(x)
    addresses = map(_address, (x, writing.z, writing.coefficients, writing.sums))
    kind = ctypes.c_int64(_WRITINGS.index(writing.kind))
    compiler.load()[f"sum_{_name(x.dtype)}"](*addresses, *sizes, kind, threads)
    return writing.sums


def max_pool(f: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of every 2 x 2 pixels, and which of the four it is: ``(..., H / 2, W / 2)``, uint8."""
    *lead, height, width = f.shape
    out = f.new_empty(*lead, height // 2, width // 2)
    places = torch.empty_like(out, dtype=torch.uint8)
    sizes = _integers(f.numel() // (height * width), height // 2, width // 2)
    compiler.load()[f"max_pool_{_name(f.dtype)}"](*map(_address, (f, out, places)), *sizes, _threads())
    return out, places


def max_pool_backward(e: Tensor, places: Tensor) -> Tensor:
    """The gradient of :func:`max_pool`, given that of its output."""
    *lead, height, width = e.shape
    gradient = e.new_empty(*lead, 2 * height, 2 * width)
    sizes = _integers(e.numel() // (height * width), height, width)
    function = compiler.load()[f"max_pool_backward_{_name(e.dtype)}"]
    function(*map(_address, (e, gradient, places)), *sizes, _threads())
    return gradient


def _convolve(name, f, weight, filters, taps, stride, out, bias, reading, writing) -> None:
    _check(filters, _fields(f) * _fields(out) * len(taps), weight, *f, *out)
    source, taps = _source(f, reading), taps.contiguous()
    target = _target(out, bias, writing)
    _function(name, filters, weight.dtype)(
        ctypes.byref(source),
        _address(weight),
        ctypes.byref(target),
        _address(taps),
        *_integers(len(taps), stride),
        _threads(),
    )


def _check(filters: FilterTransform, pairs: int, weight: Tensor, *maps: Tensor) -> None:
    """Check sizes, since the compiled code would read beyond the end of a tensor.

    Raises:
        ValueError: if a filter, prepared or not, does not fit the feature maps.
    """
    order = filters.group.order
    sizes = pairs * order, pairs * len(filters.entries) // len(filters.taps)  # of a learned and of a prepared filter
    fits = all(x.dtype == weight.dtype and x.ndim == 5 and x.shape[2] == order for x in maps)
    if not fits or weight.numel() not in sizes:
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in maps)
        raise ValueError(f"a filter of {weight.numel()} numbers in {weight.dtype} does not fit feature maps {shapes}")


def _fields(maps: Maps) -> int:
    return sum(x.shape[1] for x in maps)


class _Maps(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p * 2),
        ("fields", ctypes.c_int64 * 2),
        ("batch", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
    )


class _Source(ctypes.Structure):
    _fields_ = (
        ("maps", _Maps),
        ("reading", ctypes.c_int64),
        ("coefficients", ctypes.c_void_p),
        ("z", ctypes.c_void_p),
    )


class _Target(ctypes.Structure):
    _fields_ = (
        ("maps", _Maps),
        ("bias", ctypes.c_void_p),
        ("writing", ctypes.c_int64),
        ("coefficients", ctypes.c_void_p),
        ("z", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
    )


def _maps(tensors: Maps) -> _Maps:
    maps = _Maps()
    for place, tensor in enumerate(tensors):
        maps.data[place], maps.fields[place] = tensor.data_ptr(), tensor.shape[1]
    maps.batch, _, _, maps.height, maps.width = tensors[0].shape
    return maps


def _source(tensors: Maps, reading: Reading | None) -> _Source:
    if reading is None:
        return _Source(_maps(tensors), 0)
    kind = 1 if reading.z is None else 2
    return _Source(_maps(tensors), kind, _address(reading.coefficients), _address(reading.z))


def _target(tensors: Maps, bias: Tensor | None, writing: Writing) -> _Target:
    addresses = map(_address, (writing.coefficients, writing.z, writing.sums))
    return _Target(_maps(tensors), _address(bias), _WRITINGS.index(writing.kind), *addresses)


def _function(name: str, filters: FilterTransform, dtype: torch.dtype):
    function = compiler.load()[f"{name}_{len(filters.matrix)}_{filters.lines}_{_name(dtype)}"]
    function.restype = ctypes.c_int64  # only weight_size returns anything
    return function


def _planes(x: Tensor) -> list:
    images, fields = x.shape[:2]
    return [*_integers(fields, images * fields, x[0, 0].numel()), _threads()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _integers(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(value) for value in values]


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
