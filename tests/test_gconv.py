"""The group convolutions against their equations, written out as loops; and as torch modules like any other."""

import copy
import pickle
from itertools import product

import pytest
import torch
from equations import TRANSPOSED, assert_obeys_its_equation, random_input, relative_error
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from study.equivariance import assert_equivariant, equivariance_errors
from study.gconv import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupMaxPool2d,
    LiftingConv2d,
    OrientationPool2d,
    ProjectionConv2d,
    SymmetricConv2d,
    SymmetricConvTranspose2d,
    filters,
)
from study.groups import P2, P4, P4M, PM, PMM, Z2

GROUPS = pytest.mark.parametrize("group", [Z2, P2, PM, PMM, P4, P4M], ids=lambda group: group.name)
TURNING = pytest.mark.parametrize("group", [P2, PM, PMM, P4, P4M], ids=lambda group: group.name)
CONVOLUTIONS = [
    LiftingConv2d,
    GroupConv2d,
    GroupConvTranspose2d,
    ProjectionConv2d,
    SymmetricConv2d,
    SymmetricConvTranspose2d,
]
CONVOLUTION = pytest.mark.parametrize("kind", CONVOLUTIONS, ids=lambda kind: kind.__name__)
FORWARD = pytest.mark.parametrize(
    "kind", [kind for kind in CONVOLUTIONS if kind not in TRANSPOSED], ids=lambda kind: kind.__name__
)
UPWARD = pytest.mark.parametrize("kind", TRANSPOSED, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@FORWARD
@GROUPS
@pytest.mark.parametrize("kernel_size", range(1, 8))
@pytest.mark.parametrize(
    ("stride", "padding", "bias"), [(1, 0, True), (1, 2, False), (2, 0, False), (2, 1, True)], ids=str
)
def test_convolutions_obey_their_equations(kind, group, kernel_size, stride, padding, bias):
    layer = kind(2, 3, kernel_size, group=group, stride=stride, padding=padding, bias=bias)
    assert_obeys_its_equation(layer, (8, 7))


@UPWARD
@GROUPS
@pytest.mark.parametrize("kernel_size", [2, 3, 4])
@pytest.mark.parametrize(
    ("stride", "padding", "bias"), [(1, 0, True), (1, 1, False), (2, 0, False), (2, 1, True)], ids=str
)
def test_transposed_convolutions_obey_their_equations(kind, group, kernel_size, stride, padding, bias):
    layer = kind(2, 1, kernel_size, group=group, stride=stride, padding=padding, bias=bias)
    assert_obeys_its_equation(layer, (3, 4))


def test_on_z2_the_convolutions_are_those_of_torch():
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    lift = LiftingConv2d(3, 4, 3, group=Z2, padding=1).double()
    assert relative_error(lift(x)[:, :, 0], F.conv2d(x, lift.weight, lift.bias, padding=1)) <= 1e-14
    up = GroupConvTranspose2d(3, 4, 4, group=Z2, stride=2, padding=1).double()
    ordinary = F.conv_transpose2d(x, up.weight[:, :, 0].transpose(0, 1), up.bias, stride=2, padding=1)
    assert torch.equal(up(x[:, :, None])[:, :, 0], ordinary)
    symmetric = SymmetricConv2d(3, 4, 3, group=Z2, padding=1).double()
    weight = symmetric.weight.unflatten(2, (3, 3))
    assert relative_error(symmetric(x), F.conv2d(x, weight, symmetric.bias, padding=1)) <= 1e-14


@GROUPS
@pytest.mark.parametrize("kernel_size", range(1, 8))
def test_symmetric_filters_are_all_that_no_element_of_the_group_changes(group, kernel_size):
    any_filter = torch.randn(3, 2, kernel_size, kernel_size, dtype=torch.float64)
    mean = torch.stack([group.transform_image(any_filter, g) for g in range(group.order)]).mean(dim=0)
    layer = SymmetricConv2d(2, 3, kernel_size, group=group).double()
    orbits = torch.as_tensor(filters.tap_orbits(group, kernel_size))
    with torch.no_grad():
        for orbit in range(layer.weight.shape[2]):
            layer.weight[:, :, orbit] = mean[:, :, orbits == orbit][:, :, 0]
    torch.testing.assert_close(layer.expanded_weight(), mean, rtol=1e-12, atol=1e-12)
    for g in range(group.order):
        assert torch.equal(group.transform_image(layer.expanded_weight(), g), layer.expanded_weight())


def test_under_p4m_nine_and_sixteen_taps_share_three_weights():
    assert filters.tap_orbits(P4M, 3).tolist() == [[0, 1, 0], [1, 2, 1], [0, 1, 0]]
    assert filters.tap_orbits(P4M, 4).tolist() == [[0, 1, 1, 0], [1, 2, 2, 1], [1, 2, 2, 1], [0, 1, 1, 0]]
    assert filters.tap_orbits(PM, 3).tolist() == [[0, 1, 0], [2, 3, 2], [4, 5, 4]]


@FORWARD
@GROUPS
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "size"),
    [
        (1, 1, 0, (4, 5)),
        (2, 1, 0, (4, 5)),
        (3, 1, 1, (5, 6)),
        (2, 2, 0, (6, 4)),
        (4, 2, 1, (6, 8)),
        (3, 2, 0, (5, 7)),
        (3, 2, 1, (7, 5)),
        (5, 3, 1, (9, 6)),
    ],
)
def test_convolutions_are_equivariant_where_the_stride_leaves_nothing_over(
    kind, group, kernel_size, stride, padding, size
):
    layer = kind(2, 3, kernel_size, group=group, stride=stride, padding=padding).double()
    assert all((n + 2 * padding - kernel_size) % stride == 0 for n in size)
    assert_equivariant(layer, random_input(layer, size), group, tolerance=1e-12)


@FORWARD
@TURNING
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "size"),
    [(1, 2, 0, 4), (2, 2, 0, 5), (3, 2, 0, 6), (3, 2, 1, 6), (4, 2, 1, 7), (5, 3, 1, 8)],
)
def test_convolutions_are_not_equivariant_where_the_stride_leaves_something_over(
    kind, group, kernel_size, stride, padding, size
):
    layer = kind(2, 3, kernel_size, group=group, stride=stride, padding=padding).double()
    assert (size + 2 * padding - kernel_size) % stride != 0
    errors = equivariance_errors(layer, random_input(layer, (size, size)), group)
    # the reading starts at the upper left corner, which the identity and the transposition leave where it is
    keeps_the_corner = (group.matrices >= 0).all(axis=(1, 2))
    assert errors[keeps_the_corner].max() <= 1e-12
    assert errors[~keeps_the_corner].min() > 1e-2


@UPWARD
@GROUPS
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1), (3, 3, 0)])
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (4, 3)], ids=str)
def test_transposed_convolutions_are_equivariant_on_every_size(kind, group, kernel_size, stride, padding, size):
    layer = kind(2, 3, kernel_size, group=group, stride=stride, padding=padding).double()
    assert_equivariant(layer, random_input(layer, size), group, tolerance=1e-12)


@GROUPS
@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (GroupMaxPool2d(2), (6, 4)),
        (GroupMaxPool2d(3, 2, 1), (7, 5)),
        (OrientationPool2d("max"), (4, 5)),
        (OrientationPool2d("mean"), (4, 5)),
    ],
    ids=str,
)
def test_pooling_is_equivariant(group, pool, size):
    f = torch.randn(2, 3, group.order, *size, dtype=torch.float64)
    assert_equivariant(pool, f, group, tolerance=1e-12)


@GROUPS
@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_orientation_pooling_forgets_the_orientation(group, reduction):
    f = torch.randn(2, 3, group.order, 1, 1, dtype=torch.float64)  # one pixel: only the orientations can turn
    pool = OrientationPool2d(reduction)
    for g in range(group.order):
        torch.testing.assert_close(pool(group.transform_feature(f, g)), pool(f), rtol=1e-12, atol=1e-12)


def test_orientation_pooling_is_the_maximum_or_the_mean_over_the_planes_of_a_field():
    f = torch.randn(2, 3, 8, 4, 5, dtype=torch.float64)
    planes = f.unbind(2)
    assert torch.equal(OrientationPool2d("max")(f), torch.stack(planes).max(dim=0).values)
    torch.testing.assert_close(OrientationPool2d("mean")(f), sum(planes) / 8, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pooling_is_that_of_torch_on_every_plane(kernel_size, stride, padding):
    f = torch.randn(2, 3, 8, 7, 6)
    pooled = GroupMaxPool2d(kernel_size, stride, padding)(f)
    for k, h in product(range(3), range(8)):
        expected = F.max_pool2d(f[:, k, h, None], kernel_size, stride, padding)
        assert torch.equal(pooled[:, k, h, None], expected)


def batch_norm_with_a_past(group):
    """A batch norm whose scale, shift and running statistics are no longer those of a new one."""
    norm = GroupBatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm(5 + 3 * torch.randn(2, 3, group.order, 4, 5, dtype=torch.float64))
    return norm


@GROUPS
def test_batch_norm_is_equivariant_in_train_and_eval_mode(group):
    f = torch.randn(2, 3, group.order, 4, 5, dtype=torch.float64)
    assert_equivariant(batch_norm_with_a_past(group), f, group, tolerance=1e-12)


@GROUPS
def test_batch_norm_takes_its_moments_over_batch_orientations_and_pixels(group):
    norm = batch_norm_with_a_past(group)
    before = norm.running_mean.clone(), norm.running_var.clone()
    f = torch.randn(2, 3, group.order, 4, 5, dtype=torch.float64)
    scale, shift = norm.weight.detach().view(3, 1, 1, 1), norm.bias.detach().view(3, 1, 1, 1)
    by_field = f.transpose(0, 1).flatten(1)  # (K, B * |G| * H * W)
    mean, variance = by_field.mean(1), by_field.var(1, correction=0)

    trained = (f - mean.view(3, 1, 1, 1)) / (variance.view(3, 1, 1, 1) + norm.eps).sqrt() * scale + shift
    assert relative_error(norm(f), trained) <= 1e-12

    running_mean = 0.9 * before[0] + 0.1 * mean
    running_var = 0.9 * before[1] + 0.1 * by_field.var(1, correction=1)
    evaluated = (f - running_mean.view(3, 1, 1, 1)) / (running_var.view(3, 1, 1, 1) + norm.eps).sqrt() * scale + shift
    assert relative_error(norm.eval()(f), evaluated) <= 1e-12


@TURNING
def test_batch_norm_of_every_plane_by_itself_would_not_be_equivariant(group):
    class PlaneBatchNorm(nn.BatchNorm2d):
        def forward(self, f):
            return super().forward(f.flatten(1, 2)).unflatten(1, f.shape[1:3])

    norm = PlaneBatchNorm(3 * group.order).double()
    planes = torch.arange(float(group.order), dtype=torch.float64).view(
        -1, 1, 1
    )  # the orientations differ, as real ones do
    f = torch.randn(2, 3, group.order, 4, 4, dtype=torch.float64) + planes
    norm(f)  # in train mode the moments turn with the planes; the running statistics, once learned, do not
    assert equivariance_errors(norm.eval(), f, group)[1:].min() > 1e-2


@CONVOLUTION
@TURNING
def test_gradients_are_those_of_finite_differences(kind, group):
    if kind in TRANSPOSED:
        layer = kind(1, 2, 2, group=group, stride=2).double()
    else:
        layer = kind(1, 2, 3, group=group, stride=2, padding=1).double()
    x = random_input(layer, (3, 2), batch=1).requires_grad_()

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))


@GROUPS
@pytest.mark.parametrize(
    ("kind", "kernel_size", "stride"),
    [
        (LiftingConv2d, 3, 1),
        (LiftingConv2d, 4, 2),
        (GroupConv2d, 3, 1),
        (GroupConv2d, 4, 2),
        (ProjectionConv2d, 3, 1),
        (GroupConvTranspose2d, 2, 2),
        (GroupConvTranspose2d, 3, 2),
        (GroupConvTranspose2d, 4, 2),
        (SymmetricConv2d, 3, 1),
        (SymmetricConv2d, 4, 2),
        (SymmetricConvTranspose2d, 3, 2),
        (SymmetricConvTranspose2d, 4, 2),
    ],
)
def test_weights_start_within_one_over_the_root_of_the_true_fan_in(group, kind, kernel_size, stride):
    layer = kind(6, 64, kernel_size, group=group, stride=stride)
    fan_in = {
        LiftingConv2d: 6 * kernel_size**2,
        GroupConv2d: 6 * group.order * kernel_size**2,
        ProjectionConv2d: 6 * group.order * kernel_size**2,
        GroupConvTranspose2d: 6 * group.order * kernel_size**2 / stride**2,
        SymmetricConv2d: 6 * kernel_size**2,
        SymmetricConvTranspose2d: 6 * kernel_size**2 / stride**2,
    }[kind]
    bound = fan_in**-0.5
    assert 0.98 * bound < layer.weight.abs().max() <= bound
    assert 0.8 * bound < layer.bias.abs().max() <= bound

    # with every weight and input 1, an output away from the border counts the products summed in it
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    counts = layer(torch.ones_like(random_input(layer, (8, 8), dtype=torch.float32)))
    margin = kernel_size if kind in TRANSPOSED else 0
    inside = slice(margin, margin + 2)  # two by two pixels: one of each kind, where a transposed stride of 2 makes four
    assert counts[..., inside, inside].mean().item() == pytest.approx(fan_in)


def small(kind, group=P4M, **options):
    return kind(2, 3, 3, group=group, padding=1, **options)


@CONVOLUTION
@GROUPS
def test_outputs_follow_the_weights_in_eval_mode(kind, group):
    layer = small(kind, group, bias=False).double().eval()
    x = random_input(layer)
    before = layer(x)
    with torch.no_grad():
        layer.weight *= 2
    assert torch.equal(layer(x), 2 * before)
    other = small(kind, group, bias=False).double()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x))


@CONVOLUTION
@pytest.mark.parametrize("bias", [True, False])
def test_the_state_is_the_parameters_in_train_and_eval_mode(kind, bias):
    layer = small(kind, bias=bias)
    expected = {"weight", "bias"} if bias else {"weight"}
    layer(random_input(layer, dtype=torch.float32))
    assert set(layer.train().state_dict()) == expected
    layer.eval()(random_input(layer, dtype=torch.float32))
    assert set(layer.state_dict()) == expected


@CONVOLUTION
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_pickles_compute_the_same_and_are_independent(kind, mode, duplicate):
    layer = small(kind).train(mode == "train")
    x = random_input(layer, dtype=torch.float32)
    before = layer(x)  # a copy must work after a forward and backward pass too
    before.sum().backward()
    twin = duplicate(layer)
    assert torch.equal(twin(x), before)
    nn.init.zeros_(twin.weight)
    assert torch.equal(layer(x), before)


@CONVOLUTION
def test_a_second_backward_through_a_retained_graph_adds_the_same_gradient(kind):
    layer = small(kind).eval()
    loss = layer(random_input(layer, dtype=torch.float32)).square().sum()
    loss.backward(retain_graph=True)
    first = layer.weight.grad.clone()
    loss.backward()
    assert first.abs().max() > 0
    torch.testing.assert_close(layer.weight.grad, 2 * first)


@CONVOLUTION
def test_bfloat16_autocast_stays_near_float32(kind):
    layer = small(kind)
    x = random_input(layer, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert relative_error(out.float(), layer(x)) < 0.03
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()


@CONVOLUTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_layers_move_to_other_precisions(kind, dtype):
    layer = small(kind).to(dtype)
    out = layer(random_input(layer, dtype=dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()


@CONVOLUTION
def test_layers_compile_without_a_graph_break(kind):
    torch.compiler.reset()  # forget what other tests compiled: there is a limit to it
    layer = small(kind)
    x = random_input(layer, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@CONVOLUTION
def test_layers_export(kind):
    layer = small(kind).eval()
    x = random_input(layer, dtype=torch.float32)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@CONVOLUTION
@pytest.mark.parametrize(
    "wrong",
    [
        {"in_channels": 0},
        {"out_channels": 0},
        {"out_channels": 2.0},
        {"kernel_size": 0},
        {"kernel_size": (3, 3)},
        {"stride": 0},
        {"padding": -1},
        {"padding": "same"},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused_in_one_line(kind, wrong):
    arguments = {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "group": P4} | wrong
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} is .*; give an integer of at least [01]$"):
        kind(**arguments)


@CONVOLUTION
def test_a_group_by_name_is_refused_with_the_remedy(kind):
    with pytest.raises(TypeError, match=r"^group is 'p4m'; give one of study.groups.Z2, P2, PM, PMM, P4, P4M$"):
        kind(2, 3, 3, group="p4m")


@CONVOLUTION
def test_inputs_of_another_shape_are_refused_in_one_line(kind):
    layer = small(kind, P4)
    right = random_input(layer, dtype=torch.float32).shape
    wrong = [right[1:], (*right[:1], 5, *right[2:]), (1, *right)]
    if len(right) == 5:
        wrong += [(*right[:2], 8, *right[3:]), (2, 2 * 4, *right[3:])]  # on P4M, and as planes
    for shape in wrong:
        with pytest.raises(ValueError, match=rf"^{kind.__name__} expects \(B, 2, (4, )?H, W\), not \(.*\)$"):
            layer(torch.zeros(shape))


@pytest.mark.parametrize("layer", [GroupMaxPool2d(2), OrientationPool2d(), GroupBatchNorm2d(2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 2, 4, 4), (1, 1, 2, 4, 4, 4)], ids=str)
def test_pooling_and_batch_norm_take_feature_maps_only(layer, shape):
    with pytest.raises(ValueError, match=r"^.*expect.*$"):
        layer(torch.zeros(shape))


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match=r"^reduction is 'sum'; give \"max\" or \"mean\"$"):
        OrientationPool2d("sum")


def test_repr_says_what_differs_from_the_default():
    assert repr(GroupConv2d(2, 3, 3, group=P4)) == "GroupConv2d(2, 3, kernel_size=3, group=p4)"
    layer = LiftingConv2d(2, 3, 4, group=P4M, stride=2, padding=1, bias=False)
    assert repr(layer) == "LiftingConv2d(2, 3, kernel_size=4, group=p4m, stride=2, padding=1, bias=False)"
    assert repr(OrientationPool2d("mean")) == "OrientationPool2d(reduction='mean')"


@pytest.mark.parametrize("way", ["to_empty", "assign", "weight norm", "functional_call", "set"])
@CONVOLUTION
def test_a_layer_made_on_the_meta_device_works_once_it_has_weights(kind, way):
    source = small(kind)
    x = random_input(source, dtype=torch.float32)
    with torch.device("meta"):
        target = small(kind)
    if way == "weight norm":
        source, target = (nn.utils.parametrizations.weight_norm(layer) for layer in (source, target))
    expected, state = source(x), source.state_dict()
    if way == "functional_call":
        assert torch.equal(torch.func.functional_call(target, state, x), expected)
        return
    if way == "to_empty":
        target.to_empty(device="cpu").load_state_dict(state)
    elif way == "set":
        target.weight, target.bias = source.weight, source.bias
    else:
        with torch.inference_mode(), torch.device("meta"):  # neither may have a say in the table of taps
            target.load_state_dict(state, assign=True)
    assert way == "set" or all(buffer.device.type == "cpu" for buffer in target.buffers())
    out = target(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert relative_error(copy.deepcopy(target).export()(x.flatten(1, -3)), out.flatten(1, -3)) <= 1e-6  # in float32


@CONVOLUTION
def test_a_layer_of_fake_tensors_leaves_nothing_behind(kind):
    with FakeTensorMode():
        fake = small(kind)
        shape = fake(torch.empty(random_input(small(kind)).shape)).shape
    layer = small(kind)
    x = random_input(layer, dtype=torch.float32)
    expected = layer(x)
    assert expected.shape == shape
    fake.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(fake(x), expected)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@CONVOLUTION
@pytest.mark.parametrize("bias", [True, False])
def test_an_exported_layer_is_torchs_own_with_the_same_padding(kind, padding_mode, bias):
    if padding_mode not in kind.padding_modes:
        with pytest.raises(ValueError, match=f"padding_mode is '{padding_mode}'; give one of zeros"):
            kind(2, 3, 3, group=P4M, padding_mode=padding_mode)
        return
    layer = kind(2, 3, 3, group=P4M, stride=2, padding=1, padding_mode=padding_mode, bias=bias).double()
    x = random_input(layer, (7, 7))
    plain = layer.export()
    assert type(plain).__module__.startswith("torch.")
    out = layer(x)
    torch.testing.assert_close(plain(x.flatten(1, -3)), out.flatten(1, -3), atol=1e-12, rtol=1e-12)
    assert_equivariant(layer, x, P4M)
