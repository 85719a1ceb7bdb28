"""Blocks of a network in fewer passes over memory compute what their modules do, one after the other."""

import copy

import pytest
import torch
from conftest import HAS_ESCNN
from equations import relative_error
from torch import nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from study.equivariance import assert_equivariant, train_briefly
from study.gconv import GroupConv2d, ProjectionConv2d
from study.gconv.fast import blocks, compiler, planar, pooling
from study.groups import GROUPS, P4, P4M
from study.memory import keep_freed_memory
from study.networks.layer_sets import make_layers
from study.networks.parts import two_convolutions as block_of
from study.networks.unet import build_unet

pytestmark = pytest.mark.skipif(compiler.load() is None, reason="there is no C++ compiler")
ALL = pytest.mark.parametrize("group", [g for g in GROUPS.values() if g.order > 1], ids=lambda group: group.name)


def block(group=P4M, fields=(3, 4)):
    """Two convolutions, always by Fourier."""
    layers = make_layers(group)
    made = block_of(layers, layers.conv, *fields).double()
    for layer in made:
        if isinstance(layer, GroupConv2d):
            layer.algorithm = "fourier"
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, -1, 2)
            nn.init.normal_(layer.bias)
    return made


def maps(*fields, group=P4M, size=(9, 20)):
    return [torch.randn(3, k, group.order, *size, dtype=torch.float64, requires_grad=True) for k in fields]


def by_modules(made, f):
    """What the modules give, and the state that they leave."""
    made = copy.deepcopy(made)
    return nn.Sequential.forward(made, torch.cat(f, dim=1)), made


@ALL
@pytest.mark.parametrize("fields", [(3,), (2, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (9, 20), (3, 401)], ids=str)
def test_outputs_gradients_and_running_moments_are_those_of_the_modules(group, fields, size):
    made, f = block(group, (sum(fields), 4)), maps(*fields, group=group, size=size)
    expected, twin = by_modules(made, f)
    assert blocks.runs(made, f)
    out = made(*f)
    assert relative_error(out, expected) <= 1e-12
    e = torch.randn_like(out)
    gradients = torch.autograd.grad(out, [*f, *made.parameters()], e)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, [*f, *twin.parameters()], e), strict=True):
        assert (actual - wanted).abs().max() <= 1e-10 * wanted.abs().max() + 1e-14
    for actual, wanted in zip(made.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_running_moments_follow_the_momentum(momentum):
    made, f = block(), maps(3)
    for layer in made:
        if isinstance(layer, nn.BatchNorm3d):
            layer.momentum = momentum
    twin = copy.deepcopy(made)
    for _ in range(3):
        made(*f)
        nn.Sequential.forward(twin, *f)
    for actual, wanted in zip(made.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_batch_norm_without_running_moments():
    made, f = block(), maps(3)
    for place in (1, 4):
        made[place] = type(made[place])(4, track_running_stats=False).double()
    assert blocks.runs(made, f)
    assert relative_error(made(*f), by_modules(made, f)[0]) <= 1e-12


def test_what_is_frozen_gets_no_gradient():
    made, (f,) = block(), maps(3)
    made[0].weight.requires_grad_(False)
    f.requires_grad_(False)
    made(f).sum().backward()
    assert made[0].weight.grad is None
    assert made[3].weight.grad is not None


@pytest.mark.parametrize("fields", [(2,), (1, 1)], ids=str)
def test_second_derivatives_are_those_of_the_modules(fields):
    made, f = block(P4, (2, 2)), maps(*fields, group=P4, size=(3, 4))
    outputs = made(*f), by_modules(made, f)[0]
    found = []
    for out in outputs:
        gradients = torch.autograd.grad(out.square().sum(), f, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in gradients), f))
    for actual, wanted in zip(*found, strict=True):
        assert relative_error(actual, wanted) <= 1e-9


def observed(made, f, how):
    """Something that looks at the single modules or operations."""
    if how == "hook":
        made[2].register_forward_hook(lambda *_: None)
    if how == "evaluation":
        made[1].eval()
    if how == "dense":
        made[3].algorithm = "dense"
    if how == "another norm":
        made[1] = nn.InstanceNorm3d(4).double()
    if how == "two precisions":
        made[4].float()
    return made, f


@pytest.mark.parametrize("how", ["hook", "evaluation", "dense", "another norm", "two precisions"])
def test_modules_that_it_does_not_know_run_as_they_are(how):
    made, f = observed(block(), maps(3), how)
    assert not blocks.runs(made, f)


def refused(run):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 2, 8, 5, 5)],
        [(2, 3, 4, 5, 5)],
        [(2, 3, 5, 5)],
        [(2, 1, 8, 5, 5), (2, 2, 8, 5, 6)],
        [(2, 1, 8, 5, 5), (1, 2, 8, 5, 5)],
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_as_by_the_modules(shapes):
    made, f = block(), [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    assert refused(lambda: made(*f)) == refused(lambda: by_modules(made, f))


def test_layers_that_do_not_fit_each_other_or_are_more_run_as_they_are():
    f = maps(3)
    assert not blocks.runs([*block(), nn.Dropout()], f)
    made = block()
    made[1] = type(made[1])(5).double()
    assert not blocks.runs(made, f)
    assert refused(lambda: made(*f)) == refused(lambda: by_modules(made, f))


@pytest.mark.parametrize("shape", [(4, 2, 8, 3, 3), (3, 3, 8, 3, 3), (4, 3, 4, 3, 3)], ids=str)
def test_a_filter_that_does_not_fit_is_never_read_beyond_its_end(shape):
    layer = GroupConv2d(3, 4, 3, padding=1, group=P4M, bias=False, algorithm="fourier").double()
    f, weight = maps(3)[0], torch.randn(*shape, dtype=torch.float64)
    try:
        out = torch.func.functional_call(layer, {"weight": weight}, (f,))
    except (ValueError, RuntimeError):
        return
    assert out.shape[1] == shape[0]  # another number of outputs is a layer of its own


def test_who_counts_casts_or_transforms_sees_the_modules():
    made, f = block(), maps(3)
    with FlopCounterMode(display=False) as counter:
        made(*f)
    assert counter.get_total_flops() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not blocks.runs(made, f)
    torch.func.vmap(lambda x: pytest.fail("ran") if blocks.runs(made, [x]) else x)(torch.stack(maps(3)))


def test_a_whole_network_is_the_same_and_compiles(monkeypatch):
    torch.compiler.reset()  # forget what other tests compiled: there is a limit to it
    network, x = build_unet("p4m", width=6, depth=2), torch.randn(2, 3, 16, 16)
    for layer in network.modules():
        if isinstance(layer, GroupConv2d):
            layer.algorithm = "fourier"
    compiled = torch.compile(copy.deepcopy(network), fullgraph=True)(x)
    fast = copy.deepcopy(network)(x)
    monkeypatch.setattr(blocks, "runs", lambda *_: False)
    for out in (fast, compiled):
        assert relative_error(out, network(x)) <= 1e-4


@ALL
def test_networks_are_equivariant_in_trainings_too(group):
    network, x = build_unet(group.name, width=6, depth=2).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for layer in network.modules():
        if isinstance(layer, GroupConv2d):
            layer.algorithm = "fourier"
    assert_equivariant(network, x, group, tolerance=1e-10)
    train_briefly(network, x)
    assert_equivariant(network, x, group, tolerance=1e-10)


# Pooling, and convolutions of planes


def test_pooling_is_that_of_torch():
    x = torch.randint(0, 4, (2, 3, 4, 6, 40)).double().requires_grad_()  # with ties
    x.data[0, 0, 0, 0, 0] = torch.nan
    ours, theirs = pooling.max_pool(x), nn.functional.max_pool2d(x.flatten(1, 2), 2).unflatten(1, (3, 4))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    e = torch.randn_like(ours)
    assert torch.equal(*(torch.autograd.grad(out, x, e)[0] for out in (ours, theirs)))


def test_pooling_has_derivatives():
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pooling.max_pool, x)
    assert torch.autograd.gradgradcheck(pooling.max_pool, x)


@pytest.mark.parametrize(("channels", "outputs"), [(3, 40), (40, 1)])
@pytest.mark.parametrize(("kernel_size", "padding"), [(1, 0), (3, 1), (5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_planes_are_convolved_as_by_torch(channels, outputs, kernel_size, padding, bias):
    planes = torch.randn(2, channels, 7, 19, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(outputs, dtype=torch.float64, requires_grad=True) if bias else None
    assert planar.runs(planes, weight, None, 1, padding)
    ours = planar.conv2d(planes, weight, offset, padding)
    theirs = nn.functional.conv2d(planes, weight, offset, padding=padding)
    assert relative_error(ours, theirs) <= 1e-12
    wanted = [planes, weight, *([offset] if bias else [])]
    e = torch.randn_like(ours)
    for actual, expected in zip(*(torch.autograd.grad(out, wanted, e) for out in (ours, theirs)), strict=True):
        assert relative_error(actual, expected) <= 1e-12


@pytest.mark.parametrize("bias", [torch.arange(6.0)[::2], torch.ones(1).expand(3)], ids=["strided", "expanded"])
def test_the_bias_of_planes_may_be_a_view(bias):
    layer, f = ProjectionConv2d(40, 3, 3, padding=1, group=P4), torch.randn(1, 40, 4, 8, 8)
    given = torch.func.functional_call(layer, {"bias": bias}, (f,))
    without = torch.func.functional_call(layer, {"bias": torch.zeros(3)}, (f,))
    torch.testing.assert_close(given, without + bias.view(-1, 1, 1))


def test_a_bias_of_another_dtype_is_torch_s_error():
    layer, f = ProjectionConv2d(40, 3, 3, padding=1, group=P4), torch.randn(1, 40, 4, 8, 8)
    with pytest.raises(RuntimeError):
        torch.func.functional_call(layer, {"bias": torch.zeros(3, dtype=torch.float64)}, (f,))


@pytest.mark.parametrize("name", ["encoder.0.0.weight", "encoder.0.1.weight", "encoder.1.3.weight", "project.bias"])
def test_parameters_may_be_dual_in_a_training(name):
    network, x = build_unet("p4m", width=32, depth=1).train(), torch.randn(4, 3, 32, 32)
    exact = copy.deepcopy(network).double()
    tangent = torch.randn_like(dict(network.named_parameters())[name])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(dict(network.named_parameters())[name].detach(), tangent)
        slope = forward_ad.unpack_dual(torch.func.functional_call(network, {name: dual}, (x,))).tangent
    ahead, behind = (
        torch.func.functional_call(
            exact, {name: dict(exact.named_parameters())[name] + step * tangent.double()}, (x.double(),)
        )
        for step in (1e-7, -1e-7)
    )
    assert relative_error(slope.double(), (ahead - behind) / 2e-7) < 0.01  # float32 passes some corners of ReLU


def test_convolutions_of_planes_have_second_derivatives():
    planes = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda *tensors: planar.conv2d(*tensors, None, 1), (planes, weight))


def test_freed_memory_is_kept_without_a_word():
    keep_freed_memory()
    assert torch.ones(2**24).sum() == 2**24


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_blocks_on_escnn_run_as_they_are():
    network = build_unet("p4", width=4, depth=1, implementation="escnn")
    assert not any(blocks.runs(made, [torch.randn(1, 2, 4, 8, 8)]) for made in (*network.encoder, *network.decoder))
