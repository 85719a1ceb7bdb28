"""How equivariance is measured; and the measured law of which grids are exact, in ordinary torch operations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from study.equivariance import (
    assert_equivariant,
    equivariance_errors,
    train_briefly,
    transform,
)
from study.gconv import GroupBatchNorm2d, LiftingConv2d
from study.gconv.sizes import is_exact, size_after, size_after_transposed
from study.groups import GROUPS, P4, P4M, Z2
from study.networks.unet import build_unet

ROUNDING, BROKEN = 1e-12, 1e-2


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def symmetric_kernel(kernel_size):
    """A kernel that no roto-reflection changes, so that whatever breaks is the grid's doing."""
    kernel = torch.randn(1, 1, kernel_size, kernel_size, dtype=torch.float64)
    return sum(P4M.transform_image(kernel, g) for g in range(8)) / 8


def image(*size, batch=2, channels=1, dtype=torch.float64):
    return torch.randn(batch, channels, *size, dtype=dtype)


def worst_error(function, x):
    return equivariance_errors(Apply(function), x).max()


# The table: which operations are exact on an even and on an odd grid.


@pytest.mark.parametrize(
    ("operation", "kernel_size", "stride", "padding", "exact_on_even", "exact_on_odd"),
    [
        ("convolution", 3, 1, 1, True, True),
        ("convolution", 3, 2, 1, False, True),
        ("convolution", 2, 2, 0, True, False),
        ("convolution", 4, 2, 1, True, False),
        ("max pooling", 2, 2, 0, True, False),
        ("max pooling", 3, 2, 1, False, True),
        ("max pooling", 3, 2, 0, False, True),
        ("average pooling", 2, 2, 0, True, False),
    ],
)
def test_is_exact_foretells_the_measured_errors(operation, kernel_size, stride, padding, exact_on_even, exact_on_odd):
    kernel = symmetric_kernel(kernel_size)
    function = {
        "convolution": lambda x: F.conv2d(x, kernel, stride=stride, padding=padding),
        "max pooling": lambda x: F.max_pool2d(x, kernel_size, stride, padding),
        "average pooling": lambda x: F.avg_pool2d(x, kernel_size, stride, padding),
    }[operation]
    for size, exact in [(20, exact_on_even), (21, exact_on_odd)]:
        assert is_exact(size, kernel_size=kernel_size, stride=stride, padding=padding) == exact
        error = worst_error(function, image(size, size))
        assert error <= ROUNDING if exact else error > BROKEN


@pytest.mark.parametrize("size", range(8, 14))
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 3, 0), (3, 3, 1), (5, 3, 2), (4, 4, 0), (5, 4, 2)])
def test_is_exact_foretells_larger_strides_too(size, kernel_size, stride, padding):
    kernel = symmetric_kernel(kernel_size)
    error = worst_error(lambda x: F.conv2d(x, kernel, stride=stride, padding=padding), image(size, size))
    exact = is_exact(size, kernel_size=kernel_size, stride=stride, padding=padding)
    assert error <= ROUNDING if exact else error > BROKEN


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize(
    ("kernel_size", "padding", "output_padding", "exact"),
    [(2, 0, 0, True), (4, 1, 0, True), (3, 1, 0, True), (3, 1, 1, False)],
)
def test_transposed_convolution_is_exact_on_every_size_but_with_output_padding(
    size, kernel_size, padding, output_padding, exact
):
    kernel = symmetric_kernel(kernel_size)
    error = worst_error(
        lambda x: F.conv_transpose2d(x, kernel, stride=2, padding=padding, output_padding=output_padding),
        image(size, size),
    )
    assert error <= ROUNDING if exact else error > BROKEN


@pytest.mark.parametrize("size", [8, 9, 10, 11])
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 0), (5, 3, 2), (7, 2, 3)])
def test_sizes_after_a_layer_are_those_of_torch(size, kernel_size, stride, padding):
    sides = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    x, kernel = image(size, size), symmetric_kernel(kernel_size)
    assert size_after(size, **sides) == F.conv2d(x, kernel, stride=stride, padding=padding).shape[-1]
    larger = F.conv_transpose2d(x, kernel, stride=stride, padding=padding)
    assert size_after_transposed(size, **sides) == larger.shape[-1]


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_doubling_by_interpolation_is_exact(size, mode):
    assert worst_error(lambda x: F.interpolate(x, scale_factor=2, mode=mode), image(size, size)) <= ROUNDING


@pytest.mark.parametrize("size", [20, 21])
@pytest.mark.parametrize("amount", [1, -1], ids=["padding", "cropping"])
def test_padding_or_cropping_one_side_is_not_equivariant(size, amount):
    assert worst_error(lambda x: F.pad(x, (0, amount, 0, amount)), image(size, size)) > BROKEN
    assert worst_error(lambda x: F.pad(x, (amount,) * 4), image(size, size)) == 0


# The paper's own description: 3x3 pooling, and up-sampling that doubles, on sizes that 16 divides.


def test_the_papers_literal_pooling_is_not_equivariant_but_the_odd_grid_is():
    literal = build_unet("p4m", width=4, grid="literal").double()
    x = image(64, 64, batch=1, channels=3)
    errors = equivariance_errors(literal.train(), x)
    assert errors[0] == 0
    assert errors[1:].max() > BROKEN
    with pytest.raises(AssertionError, match="UNet is not p4m-equivariant in train mode"):
        assert_equivariant(literal, x, P4M)

    odd = build_unet("p4m", width=4, grid="odd").double()
    assert_equivariant(odd, image(65, 65, batch=1, channels=3), P4M)


def test_the_papers_literal_pooling_is_not_equivariant_on_320_pixels():
    errors = equivariance_errors(
        build_unet("p4m", width=4, grid="literal").train(), image(320, 320, batch=1, channels=3, dtype=torch.float32)
    )
    assert errors[1:].max() > BROKEN  # a thousand times float32's rounding


# The measurement itself.


def test_transform_acts_on_images_and_on_feature_maps():
    x, f = image(3, 4), torch.randn(2, 3, 8, 3, 4)
    for g in range(8):
        assert torch.equal(transform(x, g, P4M), P4M.transform_image(x, g))
        assert torch.equal(transform(f, g, P4M), P4M.transform_feature(f, g))


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
def test_there_is_one_error_for_each_element_and_none_for_the_identity(group):
    errors = equivariance_errors(nn.Conv2d(1, 2, 3).double(), image(5, 6), group)
    assert errors.shape == (group.order,)
    assert errors[0] == 0
    assert (errors[1:] > BROKEN).all()


def test_errors_are_relative_to_the_largest_output():
    def first_half(x):  # of ones: turned by 180 degrees it is 1 where it was 0
        return 1000 * torch.cat([x[..., :2], 0 * x[..., 2:]], dim=-1)

    errors = equivariance_errors(Apply(first_half), torch.ones(1, 1, 4, 4))
    # a vertical stripe on the left: what mirrors rows keeps it, everything else moves it
    assert errors.tolist() == [0, 1, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("measure", [equivariance_errors, assert_equivariant])
def test_measuring_leaves_the_module_as_it_was(measure):
    module = nn.Sequential(LiftingConv2d(1, 2, 3, group=P4M), GroupBatchNorm2d(2), GroupBatchNorm2d(2)).double()
    module[2].eval()  # a mode of its own; the other batch norm's running statistics would move
    before = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    measure(module, image(6, 6), P4M)
    assert all(torch.equal(after, before[name]) for name, after in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())


def test_errors_are_measured_in_the_modules_own_mode():
    class OnlyInEvalMode(nn.Module):
        def forward(self, x):
            return x if self.training else x * torch.arange(x.shape[-1])

    module = OnlyInEvalMode()
    assert equivariance_errors(module.train(), image(4, 4)).max() == 0
    assert equivariance_errors(module.eval(), image(4, 4)).max() > BROKEN
    with pytest.raises(AssertionError, match="OnlyInEvalMode is not p4m-equivariant in eval mode"):
        assert_equivariant(module, image(4, 4), P4M)


def test_assert_equivariant_returns_the_errors_of_both_modes():
    errors = assert_equivariant(LiftingConv2d(1, 2, 3, group=P4).double(), image(5, 6), P4)
    assert errors.shape == (2, 4)
    assert errors.max() <= 1e-10


def test_assert_equivariant_obeys_its_tolerance():
    layer, x = LiftingConv2d(1, 2, 3, group=P4M), image(9, 9, dtype=torch.float32)
    assert_equivariant(layer, x, P4M, tolerance=1e-5)
    with pytest.raises(AssertionError, match="more than 1e-12"):
        assert_equivariant(layer, x, P4M, tolerance=1e-12)


@pytest.mark.parametrize("group", list(GROUPS.values())[1:], ids=lambda group: group.name)
def test_assert_equivariant_refuses_the_plain_unet(group):
    network, x = build_unet("z2", width=4, depth=2).double(), image(16, 16, channels=3)
    with pytest.raises(AssertionError, match=f"UNet is not {group.name}-equivariant in train mode"):
        assert_equivariant(network, x, group)
    assert_equivariant(network, x, Z2)  # but to the identity


def test_assert_equivariant_refuses_p4_under_reflections():
    with pytest.raises(AssertionError, match=r"under element [4-7]"):
        assert_equivariant(build_unet("p4", width=4, depth=1).double(), image(8, 8, channels=3), P4M)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_assert_equivariant_refuses_outputs_that_are_not_finite(value):
    with pytest.raises(AssertionError, match="error nan"):
        assert_equivariant(Apply(lambda x: x * value), image(4, 4), P4M)


def test_assert_equivariant_refuses_a_single_nan_after_one_turn():
    def fails_when_turned(x):
        return x / x[:, :, :1, :1]  # 0 / 0 where the corner is 0

    x = torch.ones(1, 1, 4, 4)
    x[..., -1, -1] = 0
    with pytest.raises(AssertionError, match="error nan"):
        assert_equivariant(Apply(fails_when_turned), x, P4M)


def test_training_briefly_moves_every_weight_and_statistic():
    network, x = build_unet("p4", width=4, depth=1), image(8, 8, channels=3, dtype=torch.float32)
    before = copy.deepcopy(network.state_dict())
    train_briefly(network, x, steps=1)
    assert all((after != before[name]).any() for name, after in network.state_dict().items())
