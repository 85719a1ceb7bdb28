"""Layers drawn at random: the dense form against the equations, the Fourier form against the dense one, equivariance.

With ``TRITON_INTERPRET=1`` those in float32 take the Triton kernels, in Triton's interpreter.
"""

from functools import partial

import pytest
import torch
from equations import EQUATION, TRANSPOSED, random_input
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from torch import nn

from study.equivariance import assert_equivariant
from study.gconv import GroupBatchNorm2d, GroupConv2d, GroupConvTranspose2d, GroupMaxPool2d, OrientationPool2d
from study.gconv.fast import compiler, fourier
from study.gconv.sizes import is_exact
from study.groups import GROUPS, P4M

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
@examples(60)
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


# --- the equations, and equivariance ---


@st.composite
def small_layers(draw):
    """Any of the convolutions, in float64, and the size of an input that has an output of a few pixels."""
    kind, kernel = draw(st.sampled_from(list(EQUATION))), draw(st.integers(1, 5))
    transposed = kind in TRANSPOSED
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel))
    mode = "zeros" if transposed else draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    smallest = (2 * padding - kernel) // stride + 2 if transposed else kernel - 2 * padding
    if mode != "zeros":
        smallest = max(smallest, padding + 1)
    sides = st.integers(0, 4).map(lambda more: max(1, smallest) + more)
    options = {"stride": stride, "padding": padding, "padding_mode": mode, "bias": draw(st.booleans())}
    group = draw(st.sampled_from(list(GROUPS.values())))
    layer = kind(draw(st.integers(1, 3)), draw(st.integers(1, 2)), kernel, group=group, **options)
    return layer.double(), (draw(sides), draw(sides))


@examples(50)
@given(small_layers())
def test_any_convolution_obeys_its_equation_and_is_equivariant_where_no_stride_leaves_pixels_over(drawn):
    layer, size = drawn
    torch.manual_seed(0)
    x = random_input(layer, size)
    found = layer(x).detach()
    expected = torch.from_numpy(EQUATION[type(layer)](layer, x.numpy(), layer.weight.detach().numpy()))
    if layer.bias is not None:
        expected += layer.bias.detach().view(-1, *[1] * (expected.ndim - 2))  # one per field
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    geometry = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    if type(layer) in TRANSPOSED or all(is_exact(side, **geometry) for side in size):
        assert_equivariant(layer, x, layer.group, tolerance=1e-11)


@examples(30)
@given(
    kernel_size=st.integers(1, 4),
    stride=st.integers(1, 3),
    sizes=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    group=st.sampled_from(list(GROUPS.values())),
    data=st.data(),
)
def test_pooling_and_batch_norm_of_any_feature_map_are_equivariant(kernel_size, stride, sizes, group, data):
    padding = data.draw(st.integers(0, kernel_size // 2))
    smallest = max(kernel_size - 2 * padding, 1)
    smallest += (kernel_size - 2 * padding - smallest) % stride  # where the stride leaves nothing over
    height, width = (smallest + n * stride for n in sizes)
    torch.manual_seed(0)
    f = torch.randn(2, 3, group.order, height, width, dtype=torch.float64)
    norm = GroupBatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm(torch.randn(2, 3, group.order, 4, 5, dtype=torch.float64) + 1)
    pool = GroupMaxPool2d(kernel_size, stride, padding)
    for layer in (pool, norm, OrientationPool2d("max"), OrientationPool2d("mean")):
        assert_equivariant(layer, f, group, tolerance=1e-12)
