"""The Triton kernels against the plain form in float64.

They run on a GPU where there is one, and by Triton's interpreter anywhere. As Triton is told to interpret before it is
imported, and then interprets all kernels, that is done in a process of its own, which runs this file once more.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from study.gconv import GroupConv2d, GroupConvTranspose2d
from study.gconv.fast import operators, triton_kernels
from study.gconv.fast.filter_transform import FilterTransform
from study.groups import P4, P4M

INTERPRETED = triton_kernels.INTERPRETED
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
needs_device = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs an NVIDIA GPU")
GROUPS = pytest.mark.parametrize("group", [P4, P4M], ids=lambda group: group.name)
SHAPES = [  # (kernel, padding, input fields, output fields, size)
    (1, 0, 17, 19, (5, 7)),
    (2, 1, 17, 3, (2, 3)),
    (3, 1, 3, 5, (4, 3)),
    (3, 0, 2, 1, (4, 3)),
    (4, 2, 5, 3, (2, 3)),
    (5, 2, 2, 1, (1, 4)),
]
TRANSPOSED_SHAPES = [  # (stride, kernel, padding, input fields, output fields, size)
    (2, 1, 0, 3, 5, (3, 7)),  # most pixels of the output get nothing
    (2, 2, 0, 17, 5, (3, 2)),
    (2, 3, 1, 3, 5, (3, 4)),
    (2, 4, 1, 5, 2, (3, 2)),
    (1, 3, 0, 3, 1, (4, 3)),
]


@pytest.mark.skipif(INTERPRETED, reason="runs this file as it runs now")
def test_all_of_this_holds_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(autouse=True)
def _nan_where_nothing_is_written():
    torch.use_deterministic_algorithms(True)
    assert torch.zeros(0).new_empty(3).isnan().all()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _bfloat16_products_in_the_interpreter(monkeypatch):
    """It multiplies the bits of bfloat16, as if they were integers."""
    if not INTERPRETED:
        return
    from triton.runtime import interpreter

    def widened(x):
        if x.dtype != interpreter.tl.bfloat16:
            return x
        return interpreter.TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32)

    dot = interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(
        interpreter.InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    )


def on_device(weight, dtype):
    return tuple(matrix.to(DEVICE, dtype) for matrix in weight)


def random(*shape, dtype):
    """Numbers of that dtype, in float64."""
    return torch.randn(shape).to(dtype).double()


def assert_close(actual, expected, dtype):
    """To the rounding of the transforms and matrices to 16 bits, or to that of sums in float32."""
    tolerance = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    if INTERPRETED and dtype == torch.bfloat16:
        tolerance *= 2  # the interpreter cuts the digits off
    assert actual.isfinite().all()
    assert (actual.cpu().double() - expected).norm() <= tolerance * expected.norm()


def check_convolution(group, kernel, padding, fields, outputs, size, dtype=torch.float32):
    """And both of its gradients."""
    f = random(2, fields, group.order, *size, dtype=dtype)
    psi = random(outputs, fields, group.order, kernel, kernel, dtype=dtype)
    expected = operators.group_conv(f, psi, group.name, padding)
    e = random(*expected.shape, dtype=dtype)
    grad_f, grad_psi = operators.group_conv_backward(e, f, psi, group.name, padding, True, True)
    f, e = f.to(DEVICE, dtype), e.to(DEVICE, dtype)

    filters = FilterTransform.get(group.name, "convolution", kernel, psi)
    weight = on_device(filters.weight(psi), dtype)
    out = triton_kernels.gather(f, weight, filters.taps - padding, 1, expected.shape[-2:])
    assert_close(out, expected, dtype)

    adjoint = FilterTransform.get(group.name, "adjoint convolution", kernel, psi)
    weight, taps = on_device(adjoint.weight(psi), dtype), adjoint.taps - (kernel - 1 - padding)
    assert_close(triton_kernels.gather(e, weight, taps, 1, size), grad_f, dtype)
    sums = triton_kernels.filter_gradient(e, f, taps, 1, adjoint.lines)
    assert [matrix.dtype for matrix in sums] == 2 * [torch.float32]
    assert_close(adjoint.filter_gradient(*(matrix.cpu().double() for matrix in sums), psi), grad_psi, dtype)
    return out, *sums


def check_transposed(group, stride, kernel, padding, fields, outputs, size, dtype=torch.float32):
    """And both of its gradients."""
    f = random(2, fields, group.order, *size, dtype=dtype)
    psi = random(outputs, fields, group.order, kernel, kernel, dtype=dtype)
    expected = operators.group_conv_transpose(f, psi, group.name, stride, padding)
    e = random(*expected.shape, dtype=dtype)
    grad_f, grad_psi = operators.group_conv_transpose_backward(e, f, psi, group.name, stride, padding, True, True)
    f, e = f.to(DEVICE, dtype), e.to(DEVICE, dtype)

    filters = FilterTransform.get(group.name, "transposed convolution", kernel, psi)
    weight = on_device(filters.weight(psi), dtype)
    out = triton_kernels.scatter(f, weight, filters.taps - padding, stride, expected.shape[-2:])
    assert_close(out, expected, dtype)

    adjoint = FilterTransform.get(group.name, "adjoint transposed convolution", kernel, psi)
    weight, taps = on_device(adjoint.weight(psi), dtype), adjoint.taps - padding
    assert_close(triton_kernels.gather(e, weight, taps, stride, size), grad_f, dtype)
    sums = triton_kernels.filter_gradient(e, f, taps, stride, adjoint.lines)
    assert_close(adjoint.filter_gradient(*(matrix.cpu().double() for matrix in sums), psi), grad_psi, dtype)
    return out, *sums


@needs_device
@GROUPS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(group, shape):
    check_convolution(group, *shape)


@needs_device
@GROUPS
@pytest.mark.parametrize("shape", TRANSPOSED_SHAPES, ids=str)
def test_transposed_convolution(group, shape):
    check_transposed(group, *shape)


@needs_device
@GROUPS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_16_bits(group, dtype):
    check_convolution(group, 3, 1, 5, 3, (3, 4), dtype)
    check_transposed(group, 2, 3, 1, 3, 2, (3, 2), dtype)


@needs_device
@pytest.mark.parametrize("kind", [GroupConv2d, GroupConvTranspose2d], ids=lambda kind: kind.__name__)
def test_layers_take_them(kind, monkeypatch):
    taken = []
    for name in ("gather", "scatter", "filter_gradient"):
        kernel = getattr(triton_kernels, name)
        monkeypatch.setattr(triton_kernels, name, lambda *a, run=kernel, name=name: taken.append(name) or run(*a))
    layer = kind(3, 2, 3, group=P4, padding=1, bias=False, algorithm="fourier")
    f = torch.randn(1, 3, 4, 3, 4)
    e = torch.randn(1, 2, 4, 3, 4)
    exact = kind(3, 2, 3, group=P4, padding=1, bias=False, algorithm="dense").double()
    exact.load_state_dict(layer.state_dict())
    expected = torch.autograd.grad(exact(f.double()), exact.weight, e.double())[0]
    layer = layer.to(DEVICE)
    f = f.to(DEVICE).requires_grad_()
    assert_close(torch.autograd.grad(layer(f), [f, layer.weight], e.to(DEVICE))[1], expected, torch.float32)
    assert taken[0] == ("gather" if kind is GroupConv2d else "scatter")
    assert taken[-2:] == ["gather", "filter_gradient"]


@needs_device
def test_a_gradient_is_the_sum_of_parts_of_the_positions():
    check_convolution(P4, 1, 0, 1, 1, (16, 17))  # two parts


@needs_device
def test_images_one_by_one_and_wide_offsets_change_nothing(monkeypatch):
    monkeypatch.setattr(triton_kernels, "PARTIAL_BYTES", 1)
    monkeypatch.setattr(triton_kernels, "_index_type", lambda *_: triton_kernels.tl.int64)
    check_convolution(P4, 3, 1, 3, 2, (3, 4))
    check_transposed(P4, 2, 3, 1, 2, 3, (3, 2))


@needs_device
def test_the_same_input_gives_the_same_bits():
    def run():
        torch.manual_seed(0)
        return *check_convolution(P4, 3, 1, 3, 2, (3, 4)), *check_transposed(P4, 2, 3, 1, 2, 3, (3, 2))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@needs_device
@pytest.mark.skipif(INTERPRETED, reason="has one tile")
@GROUPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["gather", "filter_gradient"])
def test_every_tile(group, dtype, name, monkeypatch):
    kernel = getattr(triton_kernels, f"_{name}_kernel")
    wgmma = torch.cuda.get_device_capability()[0] == 9 and dtype == torch.bfloat16
    count = len(triton_kernels.TILES[name]["any"]) + wgmma * len(triton_kernels.TILES[name]["hopper"])
    for config in kernel.configs[:count]:
        monkeypatch.setattr(kernel, "configs", [config])
        check_convolution(group, 3, 1, 71, 67, (17, 19), dtype)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
@pytest.mark.parametrize("name", ["_gather_kernel", "_filter_gradient_kernel", "_transform_kernel", "_add_taps"])
def test_kernels_compile_without_a_gpu(name, monkeypatch, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_kernels, name)
    options = {}
    constants = {"ORDER": 8, "STRIDE": 1, "INDEX": triton.language.int32, "PRECISION": "tf32", "BLOCK": 512}
    if hasattr(kernel, "configs"):
        constants |= kernel.configs[0].kwargs
        options = {"num_warps": kernel.configs[0].num_warps, "num_stages": kernel.configs[0].num_stages}
        kernel = kernel.fn
    else:
        constants |= {"BLOCK_P": 64, "BLOCK_K": 8}
    pointers = {"taps": "*i32", "in_place": "*i32", "sums": "*fp32"}
    pointers |= dict.fromkeys(("e", "f", "f_hat", "weight", "partial", "out"), "*bf16")
    constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
    signature = {argument: "constexpr" if argument in constants else "i32" for argument in kernel.arg_names}
    signature |= {argument: kind for argument, kind in pointers.items() if argument in signature}
    source = ASTSource(kernel, signature, constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]
