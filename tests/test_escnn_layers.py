"""The layers on escnn against ours: the same functions and gradients, in every mode; and what their bases span."""

import pytest
import torch
from escnn import nn as enn
from escnn.nn.init import generalized_he_init

from study import gconv
from study.equivariance import equivariance_errors
from study.errors import StudyError
from study.escnn import layers as escnn_layers
from study.escnn.layers import BASES
from study.groups import P2, P4, P4M, P8, P8M, PM, PMM, Z2
from study.networks.conversion import copy_filter

KINDS = ("LiftingConv2d", "GroupConv2d", "GroupConvTranspose2d", "ProjectionConv2d")
TOLERANCE = 1e-6
"""Relative, in float64: escnn computes its basis in float32."""

groups = pytest.mark.parametrize("group", [P2, PM, PMM, P4, P4M], ids=lambda group: group.name)
kinds = pytest.mark.parametrize("kind", KINDS)
bases = pytest.mark.parametrize("basis", BASES)


def pair(kind, group, basis="full", kernel_size=3, **options):
    """The layer on escnn with weights and bias at random, and ours with the same; both in float64."""
    torch.manual_seed(0)
    theirs = getattr(escnn_layers, kind)(2, 3, kernel_size, group=group, basis=basis, **options).double()
    ours = getattr(gconv, kind)(2, 3, kernel_size, group=group, **options).double()
    if theirs.conv.bias is not None:
        torch.nn.init.normal_(theirs.conv.bias)
    assert copy_filter(theirs, ours) < 1e-15
    return theirs, ours


def sample(kind, group, size=7):
    axes = (2,) if kind == "LiftingConv2d" else (2, group.order)
    return torch.randn(2, *axes, size, size, dtype=torch.float64, requires_grad=True)


def assert_close(actual, expected):
    scale = expected.abs().max()
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE * scale


@groups
@kinds
@bases
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("padded", [False, True], ids=["valid", "padded"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_function_and_the_same_gradients(group, kind, basis, kernel_size, padded, bias, stride):
    padding = kernel_size // 2 if padded else 0
    theirs, ours = pair(kind, group, basis, kernel_size, padding=padding, bias=bias, stride=stride)
    x = sample(kind, group)
    for mode in (True, False):
        results = {}
        for layer in (theirs, ours):
            layer.train(mode).zero_grad()
            output = layer(x)
            (x_gradient,) = torch.autograd.grad(output.sin().sum(), x, retain_graph=True)
            output.sin().sum().backward(inputs=list(layer.parameters()))
            results[layer] = output.detach(), x_gradient
        for theirs_result, ours_result in zip(results[theirs], results[ours], strict=True):
            assert_close(theirs_result, ours_result)
        # psi is linear in escnn's weights, so the gradients hang together by the same matrix
        through_psi = ours.weight.grad.reshape(3, 2, -1) @ theirs._taps().T
        assert_close(theirs.conv.weights.grad, through_psi.flatten())
        if bias:
            assert_close(theirs.conv.bias.grad, ours.bias.grad * theirs._bias_scale())
    with torch.no_grad():  # where escnn uses the filter that it cached
        assert_close(theirs(x), ours(x))


@groups
@bases
def test_the_up_sampling_of_the_even_grid(group, basis):
    theirs, ours = pair("GroupConvTranspose2d", group, basis, 4, stride=2, padding=1)
    x = sample("GroupConvTranspose2d", group)
    assert_close(theirs(x), ours(x))
    assert theirs(x).shape[-2:] == (14, 14)


@groups
@kinds
def test_a_native_filter_goes_into_the_full_basis_unchanged(group, kind):
    for kernel_size in (1, 2, 3, 4, 5, 7):
        ours = getattr(gconv, kind)(2, 3, kernel_size, group=group).double()
        theirs = getattr(escnn_layers, kind)(2, 3, kernel_size, group=group, basis="full").double()
        assert copy_filter(ours, theirs) < 1e-12
        x = sample(kind, group)
        assert_close(theirs(x), ours(x))
        assert_close(theirs.eval()(x), ours(x))


@groups
@kinds
def test_a_native_filter_is_projected_onto_the_default_basis(group, kind):
    ours = getattr(gconv, kind)(2, 3, 3, group=group).double()
    theirs = getattr(escnn_layers, kind)(2, 3, 3, group=group).double()
    residual = copy_filter(ours, theirs)
    assert 0.3 < residual < 0.9  # a third of the space is missing
    assert residual == pytest.approx(((theirs.filter() - ours.weight).norm() / ours.weight.norm()).item())
    # nearest: what is missing is orthogonal to all that the basis has
    missing = (ours.weight - theirs.filter()).detach().reshape(3, 2, -1)
    assert (missing @ theirs._taps().T).abs().max() < 1e-12
    again = getattr(escnn_layers, kind)(2, 3, 3, group=group).double()
    assert copy_filter(theirs, again) < 1e-12


@pytest.mark.parametrize(
    ("group", "kernel_size", "default", "full"),
    [
        *((P4, 1, 4, 4), (P4, 3, 24, 36), (P4, 4, 20, 64), (P4, 5, 44, 100), (P4, 7, 72, 196), (P4, 2, None, 16)),
        *((P4M, 1, 8, 8), (P4M, 3, 48, 72), (P4M, 4, 40, 128), (P4M, 5, 88, 200), (P4M, 7, 144, 392)),
        *((Z2, 3, 6, 9), (P4M, 2, None, 32)),
        *((P2, 1, 2, 2), (P2, 3, 12, 18), (P2, 4, 10, 32), (P2, 5, 22, 50), (P2, 7, 36, 98), (P2, 2, None, 8)),
        *((PM, 1, 2, 2), (PM, 3, 12, 18), (PM, 4, 10, 32), (PM, 5, 22, 50), (PM, 7, 36, 98), (PM, 2, None, 8)),
        *((PMM, 1, 4, 4), (PMM, 3, 24, 36), (PMM, 4, 20, 64), (PMM, 5, 44, 100), (PMM, 7, 72, 196)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_rank_of_the_bases(group, kernel_size, default, full):
    assert full == group.order * kernel_size**2
    for basis, rank in [("escnn", default), ("full", full)]:
        if rank is None:
            with pytest.raises(StudyError, match=f"no filter of kernel_size {kernel_size}; .*basis='full'"):
                escnn_layers.GroupConv2d(1, 1, kernel_size, group=group, basis=basis)
            continue
        layer = escnn_layers.GroupConv2d(1, 1, kernel_size, group=group, basis=basis)
        assert layer.conv.weights.numel() == rank  # no filter twice
        assert torch.linalg.matrix_rank(layer._taps().double(), rtol=1e-3) == rank


@groups
def test_elements_have_the_same_places(group):
    kind = escnn_layers.feature_type(group, 2)
    f = sample("GroupConv2d", group).detach().float()
    image = torch.randn(1, 3, 5, 5)
    elements = kind.gspace.fibergroup.elements
    assert len(elements) == group.order
    for g, element in enumerate(elements):
        turned = kind(f.flatten(1, 2)).transform(element).tensor.view_as(f)
        torch.testing.assert_close(turned, group.transform_feature(f, g), atol=1e-5, rtol=1e-5)
        turned = escnn_layers.image_type(group, 3)(image).transform(element).tensor
        torch.testing.assert_close(turned, group.transform_image(image, g), atol=1e-5, rtol=1e-5)
        for h, other in enumerate(elements):
            assert element @ other == elements[group.product[g, h]]
        assert ~element == elements[group.inverse[g]]


@groups
@kinds
@bases
def test_escnn_is_equivariant_to_float32_and_ours_to_float64(group, kind, basis):
    theirs, ours = pair(kind, group, basis, padding=1)
    x = sample(kind, group)
    assert equivariance_errors(ours, x, group).max() < 1e-14
    assert equivariance_errors(theirs, x, group).max() < TOLERANCE


@groups
def test_batch_norm_pooling_and_relu_are_the_same(group):
    x = torch.randn(2, 3, group.order, 8, 8, dtype=torch.float64)
    theirs, ours = escnn_layers.GroupBatchNorm2d(3, group=group).double(), gconv.GroupBatchNorm2d(3).double()
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    theirs.moments.load_state_dict(ours.state_dict())
    for mode in (True, False):
        torch.testing.assert_close(theirs.train(mode)(x), ours.train(mode)(x), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(theirs.moments.running_var, ours.running_var, atol=1e-14, rtol=1e-14)
    for window in [(2, 2, 0), (3, 2, 1)]:
        assert torch.equal(escnn_layers.GroupMaxPool2d(*window, group=group)(x), gconv.GroupMaxPool2d(*window)(x))
    assert torch.equal(escnn_layers.ReLU(group=group)(x.clone()), x.relu())


@bases
@kinds
def test_initial_weights_are_drawn_as_escnn_draws_them(kind, basis):
    layer = getattr(escnn_layers, kind)(4, 3, 3, group=P4M, basis=basis)
    expected = torch.empty_like(layer.conv.weights)
    torch.manual_seed(1)
    generalized_he_init(expected, layer.conv.basisexpansion)
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.testing.assert_close(layer.conv.weights.detach(), expected)


@groups
@kinds
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_the_same_padding_modes(group, kind, padding_mode):
    if kind == "GroupConvTranspose2d":
        with pytest.raises(ValueError, match=f"padding_mode is '{padding_mode}'; give one of zeros"):
            pair(kind, group, padding_mode=padding_mode)
        return
    theirs, ours = pair(kind, group, padding=1, padding_mode=padding_mode)
    x = sample(kind, group)
    assert_close(theirs(x), ours(x))


def test_weights_learn_in_eval_mode_too():
    layer = escnn_layers.GroupConv2d(1, 1, 3, group=P4).eval()
    f = torch.randn(1, 1, 4, 5, 5)
    for _ in range(2):
        layer(f).sum().backward()
    assert layer.conv.weights.grad.abs().max() > 0


def test_loading_into_one_layer_leaves_the_others_alone():
    one, other = (escnn_layers.GroupConv2d(1, 1, 3, group=P4) for _ in range(2))
    f = torch.randn(1, 1, 4, 5, 5)
    before = other(f)
    one.load_state_dict({key: -value for key, value in one.state_dict().items()})  # its basis too
    assert torch.equal(other(f), before)


@bases
def test_one_state_dict_in_train_and_eval_mode(basis):
    layer = escnn_layers.GroupConv2d(2, 3, 3, group=P4, basis=basis)
    x = torch.randn(1, 2, 4, 6, 6)
    trained = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.eval()
    assert layer.state_dict().keys() == trained.keys()
    other = escnn_layers.GroupConv2d(2, 3, 3, group=P4, basis=basis).eval()
    other.load_state_dict(trained)
    assert torch.equal(other(x), layer(x))


def test_casting_one_layer_leaves_the_others_alone():
    one, other = (escnn_layers.GroupConv2d(1, 1, 3, group=P4) for _ in range(2))
    one.double()
    assert other(torch.randn(1, 1, 4, 5, 5)).dtype == torch.float32


@pytest.mark.parametrize("group", [P8, P8M], ids=lambda group: group.name)
def test_groups_that_turn_by_45_degrees(group):
    layer = escnn_layers.GroupConv2d(1, 2, 3, group=group, padding=1)
    f = torch.randn(1, 1, group.order, 7, 7)
    assert layer(f).shape == (1, 2, group.order, 7, 7)
    with pytest.raises(StudyError, match=f"{group.name} has basis='escnn' only"):
        escnn_layers.GroupConv2d(1, 1, 3, group=group, basis="full")
    with pytest.raises(StudyError, match=f"{group.name} turns by 45 degrees.*only escnn"):
        gconv.GroupConv2d(1, 1, 3, group=group)


@kinds
def test_bad_arguments_are_named(kind):
    layer = getattr(escnn_layers, kind)
    with pytest.raises(StudyError, match="unknown basis 'half'; choose from escnn, full"):
        layer(1, 1, 3, group=P4, basis="half")
    with pytest.raises(TypeError, match=r"group is 'p4'; give one of study\.groups"):
        layer(1, 1, 3, group="p4")
    for argument in ("kernel_size", "stride"):
        with pytest.raises(ValueError, match=f"{argument} is 0; give an integer of at least 1"):
            layer(1, 1, **{"kernel_size": 3, argument: 0}, group=P4, basis="full")
    with pytest.raises(ValueError, match=rf"{kind} expects \(B, 2, .*H, W\), not \(1, 5, 5\)"):
        layer(2, 1, 3, group=P4)(torch.randn(1, 5, 5))


def test_it_is_escnn_that_computes():
    layer = escnn_layers.GroupConvTranspose2d(1, 1, 3, group=P4)
    assert type(layer.conv) is enn.R2ConvTransposed
    assert type(escnn_layers.GroupConv2d(1, 1, 3, group=P4).conv) is enn.R2Conv
    assert type(escnn_layers.GroupBatchNorm2d(1, group=P4).norm) is enn.InnerBatchNorm
