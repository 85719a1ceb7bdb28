"""A deployed network gives the logits of the trained one."""

import pytest
import torch
from conftest import HAS_ESCNN
from equations import relative_error
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.flop_counter import FlopCounterMode

from study.equivariance import equivariance_errors, train_briefly
from study.errors import StudyError
from study.gconv import (
    GroupBatchNorm2d,
    GroupConv2d,
    GroupConvTranspose2d,
    GroupMaxPool2d,
    LiftingConv2d,
    OrientationPool2d,
    ProjectionConv2d,
)
from study.gconv.fast import compiler
from study.groups import GROUPS, P4M
from study.networks.deploy import ReadyGroupConv2d, deploy
from study.networks.unet import build_unet


def trained(group: str, grid: str, algorithm: str = "auto") -> nn.Module:
    network = build_unet(group, width=6, depth=2, grid=grid).double()
    for layer in network.modules():
        if isinstance(layer, GroupConv2d):
            layer.algorithm = algorithm
    train_briefly(network, images(grid))
    return network


def assert_deploys(network: nn.Module) -> nn.Module:
    x = images("even")
    deployed = deploy(network)
    assert relative_error(deployed(x), network.eval()(x)) <= 1e-12
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    return deployed


def images(grid: str) -> torch.Tensor:
    size = 16 if grid == "even" else 17
    return torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
@pytest.mark.parametrize("group", GROUPS)
def test_it_computes_the_same_and_stays_equivariant(group, grid, algorithm):
    network = trained(group, grid, algorithm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    deployed = deploy(network)
    x = images(grid)
    assert relative_error(deployed(x), network.eval()(x)) <= 1e-12
    assert equivariance_errors(deployed, x, GROUPS[group]).max() <= 1e-12
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_nothing_is_left_of_batch_norm_and_of_layers_that_prepare_filters():
    kinds = {type(module) for module in deploy(trained("p4m", "even", "fourier")).modules()}
    assert not kinds & {GroupConv2d, nn.BatchNorm2d, nn.BatchNorm3d}
    assert ReadyGroupConv2d in kinds
    assert not any(
        isinstance(m, ReadyGroupConv2d) and m.order > 1 for m in deploy(trained("p4m", "even", "dense")).modules()
    )


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_it_compiles_exports_and_needs_no_gradient(algorithm):
    deployed = deploy(trained("p4m", "even", algorithm)).float()
    x = images("even").float()
    assert not any(p.requires_grad for p in deployed.parameters())
    assert relative_error(torch.compile(deployed, fullgraph=True)(x), deployed(x)) <= 1e-5
    assert relative_error(torch.export.export(deployed, (x,)).module()(x), deployed(x)) <= 1e-5


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_its_products_are_counted_as_those_of_the_network(group, algorithm):
    network = trained(group, "even", algorithm)
    counts = []
    for module in (network.eval(), deploy(network)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(images("even"))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_autocast_and_lower_precision(algorithm):
    network = trained("p4m", "even", algorithm).float()
    x = images("even").float()
    expected = network.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative_error(deploy(network)(x).float(), expected) < 0.1
    assert relative_error(deploy(network).bfloat16()(x.bfloat16()).float(), expected) < 0.1


@pytest.mark.parametrize("compiler_there", [True, False])
@pytest.mark.parametrize("kind", [GroupConv2d, GroupConvTranspose2d])
def test_autocast_has_no_say_in_a_ready_convolution(kind, compiler_there, monkeypatch):
    if not compiler_there:
        monkeypatch.setattr(compiler, "load", lambda: None)
    layer = kind(3, 5, 3, group=GROUPS["p4m"], algorithm="fourier")
    planes = torch.randn(2, 24, 6, 5)
    expected = ReadyGroupConv2d(layer)(planes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ReadyGroupConv2d(layer)(planes), expected)


def test_other_paddings_and_norms_without_scale_are_kept():
    network = build_unet("p4", width=4, depth=1).double()
    conv = GroupConv2d(2, 2, 3, padding=1, group=GROUPS["p4"], padding_mode="circular", algorithm="fourier").double()
    network.encoder[0][3], network.encoder[0][4] = conv, GroupBatchNorm2d(2, affine=False).double()
    train_briefly(network, images("even"))
    x = images("even")
    assert relative_error(deploy(network)(x), network.eval()(x)) <= 1e-12


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
@pytest.mark.parametrize("group", GROUPS)
def test_parametrised_weights_become_what_they_are(group, algorithm):
    network = trained(group, "even", algorithm)
    for layer in (network.encoder[0][0], network.encoder[1][3], network.up[0][0], network.decoder[1][0]):
        weight_norm(layer)
        layer.parametrizations.weight.original0.data *= 1.5
    spectral_norm(network.project)
    assert_deploys(network)


KEPT = {
    "nothing": lambda fields, on: nn.Identity(),
    "dropout": lambda fields, on: nn.Dropout(),
    "group norm": lambda fields, on: nn.GroupNorm(1, fields),
    "instance norm": lambda fields, on: (nn.InstanceNorm3d if on else nn.InstanceNorm2d)(fields, affine=True),
    "statistics of the batch": lambda fields, on: (nn.BatchNorm3d if on else nn.BatchNorm2d)(
        fields, track_running_stats=False
    ),
    "several": lambda fields, on: nn.Sequential(nn.GroupNorm(1, fields), nn.LeakyReLU()),
}


@pytest.mark.parametrize("norm", KEPT)
@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
@pytest.mark.parametrize("group", ["z2", "p4m"])
def test_other_norms_are_kept(group, algorithm, norm):
    network = trained(group, "even", algorithm)
    for block in (*network.encoder, *network.decoder, *network.up):
        for place, layer in enumerate(block):
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                block[place] = KEPT[norm](layer.num_features, group != "z2")
    network.encoder[0].insert(0, nn.BatchNorm2d(3))  # of images
    train_briefly(network.double(), images("even"))
    assert_deploys(network)


@pytest.mark.parametrize("group", ["z2", "p4m"])
def test_synchronised_batch_norm_is_folded_like_any_other(group):
    network = nn.SyncBatchNorm.convert_sync_batchnorm(trained(group, "even"))
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in assert_deploys(network).modules())


def test_other_poolings_and_projections_are_kept():
    network = trained("p4m", "even")
    network.pool = nn.AvgPool3d((1, 2, 2))
    network.project = nn.Sequential(OrientationPool2d("mean"), nn.Conv2d(2, 1, 1).double())
    assert_deploys(assert_deploys(network))


def test_norms_may_be_of_another_precision():
    network = trained("z2", "even").bfloat16()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.float()
    x = images("even").bfloat16()
    assert relative_error(deploy(network)(x).float(), network.eval()(x).float()) < 0.1


@pytest.mark.parametrize("group", ["z2", "p4m"])
def test_layers_may_share_a_weight_or_be_one(group):
    network = build_unet(group, width=6, depth=2).double()
    one, other = network.encoder[1], network.decoder[0]
    other[3].weight = one[3].weight
    network.encoder[2].insert(6, network.encoder[2][3])
    network.encoder[2].insert(7, (nn.BatchNorm2d if group == "z2" else GroupBatchNorm2d)(len(other[0].weight) * 2))
    train_briefly(network.double(), images("even"))
    assert_deploys(network)


def test_a_container_may_stand_in_two_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lift = nn.Sequential(LiftingConv2d(3, 4, 3, padding=1, group=P4M))
            self.one = nn.Sequential(GroupMaxPool2d(2), GroupConv2d(4, 4, 3, padding=1, group=P4M))
            self.other = self.one
            self.project = nn.Sequential(ProjectionConv2d(4, 1, 3, padding=1, group=P4M))

        def forward(self, x):
            return self.project(self.other(self.one(self.lift(x))))

    network, x = Twice().double().eval(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(deploy(network)(x), network(x))


def hook(*_) -> None:
    pass


HOOKED = {
    "encoder.0.0": lambda network: network.encoder[0][0].register_forward_hook(hook),
    "decoder.1.1": lambda network: network.decoder[1][1].register_forward_pre_hook(hook),
    "pool": lambda network: network.pool.register_forward_hook(hook, with_kwargs=True),
    "up.0.0": lambda network: old_weight_norm(network.up[0][0]),
    "project": lambda network: prune.random_unstructured(network.project, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", HOOKED)
def test_hooks_on_layers_are_refused_by_name_and_those_on_the_network_kept(name):
    network = trained("p4", "even")
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    assert_deploys(network)
    assert len(calls) == 2
    HOOKED[name](network)
    with pytest.raises(StudyError, match=rf"^the layer {name} has a forward hook, .*; remove it before deploying .*$"):
        deploy(network)


def test_a_block_that_is_no_sequential_is_refused_by_name():
    network = trained("p4", "even")
    network.decoder[1] = nn.Identity()
    with pytest.raises(StudyError, match=r"^the block decoder.1 is of Identity; give an nn.Sequential"):
        deploy(network)


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_it_draws_no_random_numbers(algorithm):
    network = trained("p4m", "even", algorithm)
    before = torch.get_rng_state()
    deploy(network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_a_network_made_on_the_meta_device_deploys_once_it_has_weights(algorithm):
    source = trained("p4m", "even", algorithm)
    with torch.device("meta"):
        network = build_unet("p4m", width=6, depth=2)
    network.load_state_dict(source.state_dict(), assign=True)
    x = images("even")
    assert relative_error(assert_deploys(network)(x), source.eval()(x)) <= 1e-12


def test_wrong_sizes_are_refused_as_before():
    with pytest.raises(StudyError, match="would break the equivariance"):
        deploy(trained("p4m", "even"))(torch.zeros(1, 3, 18, 18, dtype=torch.float64))


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_a_network_on_escnn_is_refused_with_the_remedy():
    with pytest.raises(StudyError, match="convert it"):
        deploy(build_unet("p4", width=4, depth=1, implementation="escnn"))
