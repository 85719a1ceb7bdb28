"""The same promises on a GPU; skipped where there is none."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import HAS_ESCNN
from equations import relative_error
from lightning_fabric import Fabric

from study.equivariance import assert_equivariant, train_briefly
from study.experiments.trials import run_trial
from study.gconv import GroupConv2d, GroupConvTranspose2d
from study.groups import P4, P4M
from study.networks.conversion import copy_weights
from study.networks.unet import build_unet
from study.tasks.stability import stability

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("group", [P4, P4M], ids=lambda group: group.name)
@pytest.mark.parametrize(("grid", "size"), [("even", 32), ("odd", 33)])
def test_networks_are_exactly_equivariant_in_float64_before_and_after_training(group, grid, size):
    network = build_unet(group.name, width=8, depth=3, grid=grid).double().cuda()
    images = torch.randn(2, 3, size, size, dtype=torch.float64, device="cuda")
    assert_equivariant(network, images, group, tolerance=1e-10)
    train_briefly(network, images)
    assert_equivariant(network, images, group, tolerance=1e-10)


@pytest.mark.parametrize("group", ["z2", "p4", "p4m"])
def test_the_gpu_agrees_with_the_cpu(group):
    network = build_unet(group, width=8, depth=2).double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    on_cpu = network(images)
    torch.testing.assert_close(network.cuda()(images.cuda()).cpu(), on_cpu, rtol=1e-10, atol=1e-10)


def test_stability_in_float32_is_not_spoilt_by_tensor_cores():
    network = build_unet("p4m", width=16, depth=3).cuda().train()
    assert stability(network, torch.randn(2, 3, 64, 64, device="cuda")).deviation.max() < 1e-5


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_trial_runs_and_p4m_stays_steady(study, precision):
    study = replace(
        study, preset=replace(study.preset, recipe=replace(study.preset.recipe, precision=precision), workers=2)
    )
    for trial in study.trials():
        metrics = run_trial(study, trial, Fabric(accelerator="cuda", devices=1, precision=precision))["metrics"]
        if trial.model == "p4m":
            assert metrics["deviation_max"] < 1e-5


@pytest.mark.parametrize("group", [P4, P4M], ids=lambda group: group.name)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str
)
@pytest.mark.parametrize("fields", [(3, 5), (17, 19), (64, 48)], ids=str)
def test_the_fourier_form_is_the_dense_one(group, dtype, tolerance, fields):
    for layer, size in [
        (GroupConv2d(*fields, 3, padding=1, group=group, algorithm="fourier"), (17, 12)),
        (GroupConvTranspose2d(*fields, 4, stride=2, padding=1, group=group, algorithm="fourier"), (9, 6)),
    ]:
        exact = copy.deepcopy(layer).double()
        exact.algorithm = "dense"
        layer = layer.to("cuda", dtype)
        f = torch.randn(3, fields[0], group.order, *size).to(dtype)
        ours, theirs = f.cuda().requires_grad_(), f.double().requires_grad_()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            out = layer(ours)
            expected = exact(theirs)
            e = torch.randn_like(expected)
            found = torch.autograd.grad(out, [ours, *layer.parameters()], e.to(out))
        references = (expected, *torch.autograd.grad(expected, [theirs, *exact.parameters()], e))
        for value, reference in zip((out, *found), references, strict=True):
            assert relative_error(value.detach().double().cpu(), reference.detach()) <= tolerance


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
@pytest.mark.parametrize("group", ["p4", "p4m"])
@pytest.mark.parametrize("basis", ["escnn", "full"])
def test_a_network_trained_on_escnn_is_the_same_function_in_ours(group, basis):
    theirs = build_unet(group, width=8, depth=2, implementation="escnn", basis=basis).cuda()
    images = torch.randn(2, 3, 32, 32, device="cuda")
    train_briefly(theirs, images)
    ours = build_unet(group, width=8, depth=2).cuda()
    copy_weights(theirs, ours)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        difference = ours.eval()(images).sigmoid() - theirs.eval()(images).sigmoid()
    assert difference.abs().max() <= 1e-5
