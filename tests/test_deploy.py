"""A deployed network gives the logits of the trained one."""

import pytest
import torch
from conftest import HAS_ESCNN
from equations import relative_error
from torch import nn

from study.deploy import ReadyGroupConv2d, deploy
from study.equivariance import equivariance_errors, train_briefly
from study.errors import StudyError
from study.gconv import GroupBatchNorm2d, GroupConv2d, GroupConvTranspose2d, compiler
from study.groups import GROUPS
from study.unet import build_unet


def trained(group: str, grid: str, algorithm: str = "auto") -> nn.Module:
    network = build_unet(group, width=6, depth=2, grid=grid).double()
    for layer in network.modules():
        if isinstance(layer, GroupConv2d):
            layer.algorithm = algorithm
    train_briefly(network, images(grid))
    return network


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
    assert not any(isinstance(m, ReadyGroupConv2d) for m in deploy(trained("p4m", "even", "dense")).modules())


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_it_compiles_exports_and_needs_no_gradient(algorithm):
    deployed = deploy(trained("p4m", "even", algorithm)).float()
    x = images("even").float()
    assert not any(p.requires_grad for p in deployed.parameters())
    assert relative_error(torch.compile(deployed, fullgraph=True)(x), deployed(x)) <= 1e-5
    assert relative_error(torch.export.export(deployed, (x,)).module()(x), deployed(x)) <= 1e-5


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


def test_wrong_sizes_are_refused_as_before():
    with pytest.raises(StudyError, match="would break the equivariance"):
        deploy(trained("p4m", "even"))(torch.zeros(1, 3, 18, 18, dtype=torch.float64))


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_a_network_on_escnn_is_refused_with_the_remedy():
    with pytest.raises(StudyError, match="convert it"):
        deploy(build_unet("p4", width=4, depth=1, implementation="escnn"))
