"""The doctor finds the layer that breaks a network, and says why; and finds nothing where nothing is broken."""

import sys

import pytest
import torch
from data_helpers import assert_refused
from torch import nn

from study.equivariance import diagnose
from study.gconv import GroupConv2d, GroupMaxPool2d, LiftingConv2d, ProjectionConv2d, SymmetricConv2d
from study.groups import P4M
from study.unet import build_unet


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def image(size: int = 24) -> torch.Tensor:
    return torch.randn(1, 3, size, size)


def symmetric(inputs: int, outputs: int) -> nn.Module:
    return SymmetricConv2d(inputs, outputs, 3, padding=1, group=P4M)


@pytest.mark.parametrize("group", ["p4m"])
@pytest.mark.parametrize("mode", [True, False])
def test_an_equivariant_network_is_healthy_and_left_as_it_was(group, mode):
    network = build_unet(group, width=8, depth=2).train(mode)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = diagnose(network, image())
    assert found.equivariant
    assert (found.first, found.geometry) == (None, [])
    assert found.errors.shape == (8,)
    assert "It is equivariant." in str(found)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_subgroup_is_exact_on_its_own_elements_only():
    found = diagnose(build_unet("p4", width=8, depth=2).eval(), image())
    assert found.errors[:4].max() < 1e-10 < 1e-5 < found.errors[4:].min()
    assert found.first.kind == "LiftingConv2d"


def test_an_ordinary_convolution_is_named():
    found = diagnose(build_unet("z2", width=8, depth=2).eval(), image())
    assert found.first.name == "encoder.0.0"
    assert "no symmetry" in found.first.why
    assert found.geometry == []
    assert found.unsymmetric[0] == found.unsymmetric[1] > 5


@pytest.mark.parametrize(
    ("layer", "size", "why", "remedy"),
    [
        (nn.MaxPool2d(2), 25, "(25 + 2 * 0 - 2) % 2 = 1", "26"),
        (nn.MaxPool2d(3, 2, 1), 24, "(24 + 2 * 1 - 3) % 2 = 1", "25"),
        (nn.AvgPool2d(2, ceil_mode=True), 25, "leaves something over", "26"),
        (nn.Conv2d(4, 4, 2, padding="same"), 24, "pads one side more", "odd kernel"),
        (nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1), 24, "output_padding", "leave it out"),
        (nn.ZeroPad2d((0, 1, 0, 1)), 24, "pads one side more", "both sides"),
        (nn.Upsample(size=37), 24, "resizes", "whole factor"),
        (nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), 24, "not square", "make it so"),
        (nn.Conv2d(4, 4, 3, stride=4, padding=1), 24, "stride leaves something over", "25"),
        (nn.Conv2d(4, 4, 3, stride=2, dilation=2), 24, "(24 + 2 * 0 - 5) % 2 = 1", "25"),
    ],
)
def test_what_no_weights_can_mend_is_found_behind_an_exact_layer(layer, size, why, remedy):
    network = nn.Sequential(symmetric(3, 4), nn.ReLU(inplace=True), layer).double()
    found = diagnose(network, image(size))
    assert [one.name for one in found.geometry] == ["2"]
    assert why in found.geometry[0].why
    assert remedy in found.geometry[0].remedy
    assert found.first.name == "2"
    assert why in str(found)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.MaxPool2d(2), 24),
        (nn.MaxPool2d(3, 2, 1), 25),
        (nn.Upsample(scale_factor=2), 24),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 24),
        (nn.AdaptiveAvgPool2d(7), 24),
        (nn.ZeroPad2d(2), 24),
        (nn.BatchNorm2d(4), 24),
    ],
)
def test_what_is_exact_is_not_accused(layer, size):
    found = diagnose(nn.Sequential(symmetric(3, 4), layer).double(), image(size))
    assert found.equivariant
    assert found.geometry == []


def test_one_batch_norm_for_each_plane_is_named():
    class PerPlane(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(16)
            nn.init.uniform_(self.norm.weight, 0.5, 2)

        def forward(self, f):  # (B, 2, 8, H, W)
            return self.norm(f.flatten(1, 2)).view_as(f)

    network = nn.Sequential(
        LiftingConv2d(3, 2, 3, padding=1, group=P4M),
        PerPlane(),
        GroupConv2d(2, 2, 3, padding=1, group=P4M),
        GroupMaxPool2d(2, 2),
        ProjectionConv2d(2, 1, 3, padding=1, group=P4M),
    )
    found = diagnose(network, image())
    assert found.first.name == "1.norm"
    assert "apart from each other" in found.first.why


def test_a_pooling_of_another_library_is_judged_by_its_numbers():
    class Pool(nn.Module):
        kernel_size, stride, padding = (3, 3), [2, 2], 1

        def forward(self, f):  # (B, K, |G|, H, W)
            return nn.functional.max_pool3d(f, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    lift, project = LiftingConv2d(3, 2, 3, padding=1, group=P4M), ProjectionConv2d(2, 1, 3, padding=1, group=P4M)
    found = diagnose(nn.Sequential(lift, Pool(), project), image(24))
    assert (found.first.name, found.sizes) == ("1", [23, 25])
    assert "(24 + 2 * 1 - 3) % 2 = 1" in found.first.why
    assert diagnose(nn.Sequential(lift, Pool(), project), image(25)).equivariant


def test_what_happens_between_layers_is_laid_to_the_module_that_does_it():
    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = symmetric(3, 4)

        def forward(self, x):
            return self.conv(x)[..., 1:, 1:]

    found = diagnose(nn.Sequential(Crops(), symmetric(4, 1)), image())
    assert (found.first.name, found.first.kind) == ("0", "Crops")
    assert "between its layers" in found.first.why


def test_scores_should_stay_and_sizes_are_proposed():
    network = nn.Sequential(
        symmetric(3, 4),
        nn.MaxPool2d(2),
        symmetric(4, 4),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    assert diagnose(network, image(24)).equivariant
    found = diagnose(network, image(26))
    assert not found.equivariant
    assert [layer.name for layer in found.geometry] == ["3"]
    assert found.sizes == [24, 28]
    assert "24 or 28" in str(found)


def test_channels_last_and_tokens_are_followed():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = symmetric(3, 4)
            self.mix = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.place = nn.Parameter(torch.randn(1, 64, 4))

        def forward(self, x):
            tokens = self.norm(self.mix(self.embed(x).flatten(2).transpose(1, 2)))  # (B, H W, C)
            return (tokens + self.place).relu().mean(dim=1)

    found = diagnose(Tokens(), image(8))
    assert (found.first.name, found.first.kind) == ("", "Tokens")
    assert all(layer.leaving < 1e-10 for layer in found.layers if layer.name)


def test_what_cannot_be_diagnosed_is_refused():
    with assert_refused("(1, 3, 8, 9)", "square"):
        diagnose(nn.Identity(), torch.randn(1, 3, 8, 9))
    with assert_refused("returns", "(B, C, H, W) or (B, C)"):
        diagnose(nn.Flatten(0), image(8))
    with assert_refused("NaN or infinity"):
        diagnose(nn.Threshold(10, float("nan")), image(8))


NETWORKS = """
from torch import nn

def pools(): return nn.MaxPool2d(3, 2, 1)
def nothing(): return 3
def several_lines(): raise ValueError("first\\nsecond")
def shapes(): return nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
"""


@pytest.mark.parametrize(
    ("place", "size", "code", "words"),
    [
        ("mine:pools", 25, 0, "It is equivariant."),
        ("mine:pools", 24, 1, "On images of side 23 or 25"),
        ("mine:nothing", 24, 2, "mine:nothing returns int; it should return a torch.nn.Module"),
        ("mine:missing", 24, 2, "mine:missing: module 'mine' has no attribute 'missing'"),
        ("mine:several_lines", 24, 2, "mine:several_lines: first second; give module:function"),
        ("mine:shapes", 24, 2, "mine:shapes does not take 24 x 24"),
        ("not_there:x", 24, 2, "No module named 'not_there'"),
    ],
)
def test_the_command_takes_any_network(tmp_path, monkeypatch, run_command, place, size, code, words):
    (tmp_path / "mine.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found, output, error = run_command("check", place, "--size", size)
    sys.modules.pop("mine", None)
    assert (found or 0) == code
    assert words in output + error
