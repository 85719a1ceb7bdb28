"""The Fourier form against the dense form: outputs and gradients of convolutions drawn at random.

For each body 60 examples, always the same; ``EXAMPLES=2000 pytest tests/test_random_convolutions.py`` draws others.
With ``TRITON_INTERPRET=1`` those in float32 take the Triton kernels, in Triton's interpreter.
"""

import os
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.gconv import GroupConv2d, GroupConvTranspose2d
from study.gconv.fast import compiler, fourier
from study.groups import GROUPS, P4M

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
LAYOUTS = {
    "contiguous": lambda randn, *shape: randn(*shape),
    "transposed": lambda randn, *shape: randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2),
    "channels last": lambda randn, *shape: randn(shape[0], *shape[3:], *shape[1:3]).permute(0, 3, 4, 1, 2),
    "images expanded": lambda randn, *shape: randn(1, *shape[1:]).expand(shape),
    "planes expanded": lambda randn, *shape: randn(*shape[:2], 1, *shape[3:]).expand(shape),
    "sliced": lambda randn, *shape: randn(*shape[:-2], shape[-2] + 2, 2 * shape[-1] + 1)[..., 1:-1, 1::2],
    "every other field": lambda randn, *shape: randn(shape[0], 2 * shape[1], *shape[2:])[:, ::2],
}


def random(layout, dtype, *shape):
    return LAYOUTS[layout](partial(torch.randn, dtype=dtype), *shape)


@st.composite
def layers(draw):
    """A kind of layer, its arguments, and the size of the input, which has an output."""
    kind = draw(st.sampled_from([GroupConv2d, GroupConvTranspose2d]))
    transposed = kind is GroupConvTranspose2d
    fields = draw(st.integers(1, 40)), draw(st.integers(1, 4))  # both many would take long
    kernel = draw(st.integers(1, 7))
    arguments = {
        "group": draw(st.sampled_from([group for group in GROUPS.values() if group.order > 1])),
        "stride": draw(st.sampled_from([1, 2, 3] if transposed else [1, 1, 1, 1, 2, 3])),  # dense, but for 1
        "padding": draw(st.integers(0, kernel + 2)),
        "bias": draw(st.booleans()),
    }
    padding, stride = arguments["padding"], arguments["stride"]
    smallest = (2 * padding - kernel) // stride + 2 if transposed else kernel - 2 * padding
    if not transposed:
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
        if arguments["padding_mode"] != "zeros":
            smallest = max(smallest, padding + 1)  # reflections reach no further
    sides = st.integers(0, 9).map(lambda more: max(1, smallest) + more)
    return kind, (*draw(st.sampled_from([fields, fields[::-1]])), kernel), arguments, (draw(sides), draw(sides))


@pytest.mark.parametrize("body", ["cpp", "torch"])
@settings(
    max_examples=EXAMPLES,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    layer=layers(),
    dtype=st.sampled_from(list(TOLERANCE)),
    images=st.integers(0, 3),
    layout=st.sampled_from(list(LAYOUTS)),
    layout_of_gradient=st.sampled_from(list(LAYOUTS)),
    frozen=st.sampled_from([None, None, "input", "weight"]),
    block_bytes=st.sampled_from([1, 2**12, 2**16, fourier.BLOCK_BYTES["cpu"]]),
)
def test_any_convolution_is_that_of_the_dense_form(
    body, layer, dtype, images, layout, layout_of_gradient, frozen, block_bytes, monkeypatch
):
    if body == "torch":
        monkeypatch.setattr(compiler, "load", lambda: None)
    elif compiler.load() is None:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setitem(fourier.BLOCK_BYTES, "cpu", block_bytes)
    torch.manual_seed(0)
    kind, sizes, arguments, grid = layer
    layer = kind(*sizes, algorithm="fourier", **arguments).to(dtype)
    layer.weight.requires_grad_(frozen != "weight")
    f = random(layout, dtype, images, layer.in_channels, layer.group.order, *grid)
    assert_is_the_dense_form(layer, f.requires_grad_(frozen != "input"), layout_of_gradient)


def assert_is_the_dense_form(layer, f, layout_of_gradient="contiguous"):
    """In its output and in all gradients that are wanted."""
    wanted = [tensor for tensor in (f, *layer.parameters()) if tensor.requires_grad]
    results = []
    for algorithm in ("fourier", "dense"):
        layer.algorithm = algorithm
        out = layer(f)
        if not results:
            e = random(layout_of_gradient, f.dtype, *out.shape)
        results.append([out, *torch.autograd.grad(out, wanted, e)] if wanted else [out])
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        # the gradient of a bias is a plain sum of e, in which nearly all may cancel: its rounding is of the size of e
        scale = e.norm() if expected.ndim == 1 else expected.norm()
        assert (actual - expected).norm() <= TOLERANCE[f.dtype] * scale


def test_a_transposed_convolution_of_many_fields_to_few():
    """The workspace was measured by the outputs alone, and the inputs are more."""
    layer = GroupConvTranspose2d(64, 4, 3, group=P4M, stride=2, padding=1, algorithm="fourier")
    assert_is_the_dense_form(layer, torch.randn(1, 64, 8, 40, 40, requires_grad=True))
