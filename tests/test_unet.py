"""The networks: what they are made of, that they are exactly equivariant, and the sizes they refuse."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from study.equivariance import assert_equivariant, equivariance_errors, train_briefly
from study.errors import StudyError
from study.groups import GROUPS, roto_reflections
from study.networks.grid import GRIDS
from study.networks.layer_sets import field_counts, make_layers
from study.networks.parts import Block
from study.networks.unet import UNet, build_unet

GROUP = pytest.mark.parametrize("group", GROUPS)
GRID = pytest.mark.parametrize("grid", ["even", "odd"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fitting(n, grid):
    """A size that the grid keeps exactly equivariant, from one that has only even sizes on the way down."""
    return n + GRIDS[grid].sizes(1).remainder


def assert_equivariant_before_and_after_training(network, x, own, *, broken):
    """Under its own elements to rounding, and by more than ``broken`` not under any other, in both modes."""
    for moment in ("before", "after"):
        if moment == "after":
            train_briefly(network, x)
        for mode in (True, False):
            errors = equivariance_errors(network.train(mode), x).numpy()
            assert errors[own].max() <= 1e-10
            assert errors[~own].min(initial=1) > broken


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network):
    """All that a batch norm follows, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "kernel_size") and name.partition(".")[0] in ("encoder", "up", "decoder")
    }


@GROUP
@GRID
@pytest.mark.parametrize("depth", range(1, 6))
def test_logits_have_the_size_of_the_image(group, grid, depth):
    network = build_unet(group, width=2, depth=depth, grid=grid)
    height, width = fitting(2**depth, grid), fitting(2 * 2**depth, grid)
    assert network(torch.randn(2, 3, height, width)).shape == (2, 1, height, width)


@GROUP
@GRID
def test_skip_connections_meet_their_own_size_without_padding_or_cropping(group, grid):
    network = build_unet(group, width=2, depth=3, grid=grid)
    sizes = {}
    for name, blocks in [("down", network.encoder[:-1]), ("up", network.up)]:
        sizes[name] = []
        for block in blocks:
            block.register_forward_hook(lambda _, __, out, seen=sizes[name]: seen.append(out.shape[-2:]))
    network(torch.randn(1, 3, fitting(16, grid), fitting(24, grid)))
    assert sizes["up"] == sizes["down"][::-1]
    assert len(set(sizes["up"])) == 3


@GROUP
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 1), (1, 3), (4, 2)])
def test_channels_and_classes_are_free(group, in_channels, num_classes):
    network = build_unet(group, width=2, depth=1, in_channels=in_channels, num_classes=num_classes)
    assert network(torch.randn(2, in_channels, 6, 8)).shape == (2, num_classes, 6, 8)


@GROUP
@GRID
@pytest.mark.parametrize(("width", "depth", "size"), [(8, 2, (16, 16)), (4, 3, (24, 32)), (4, 4, (32, 16))])
def test_networks_are_exactly_equivariant_before_and_after_training(group, grid, width, depth, size):
    network = build_unet(group, width=width, depth=depth, grid=grid).double()
    x = torch.randn(2, 3, *(fitting(n, grid) for n in size), dtype=torch.float64)
    assert_equivariant(network, x, GROUPS[group], tolerance=1e-10)
    before = copy.deepcopy(network.state_dict())
    train_briefly(network, x)
    assert all((after != before[name]).any() for name, after in network.state_dict().items())
    assert_equivariant(network, x, GROUPS[group], tolerance=1e-10)


VARIANTS = {
    "symmetric kernels, p4m": {"group": "p4m", "symmetric_kernels": True},
    "symmetric kernels, pmm": {"group": "pmm", "symmetric_kernels": True},  # not p4: under it 3x3 filters are p4m's
    "symmetric kernels, pm": {"group": "pm", "symmetric_kernels": True},
    "max, p4m": {"group": "p4m", "readout": "max"},
    "mean, p4m": {"group": "p4m", "readout": "mean"},
    "max, p4": {"group": "p4", "readout": "max"},
    "equal width, p4m": {"group": "p4m", "budget": "equal width"},
}
VARIANT = pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))


@VARIANT
@GRID
def test_variants_are_exactly_equivariant_under_their_group_alone_before_and_after_training(options, grid):
    network = build_unet(**options, width=8, depth=2, grid=grid).double()
    x = torch.randn(2, 3, fitting(16, grid), fitting(12, grid), dtype=torch.float64)
    own = roto_reflections(GROUPS[options["group"]])
    before = copy.deepcopy(network.state_dict())
    assert_equivariant_before_and_after_training(network, x, own, broken=1e-3)
    assert all((after != before[name]).any() for name, after in network.state_dict().items())


@VARIANT
def test_variants_export_and_copy(options):
    network = build_unet(**options, width=4, depth=1).eval()
    x = torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))


@GRID
def test_symmetric_kernels_cost_what_the_plain_unet_costs_with_fewer_parameters(grid):
    plain, symmetric = (
        build_unet("z2", width=8, grid=grid),
        build_unet("p4m", width=8, grid=grid, symmetric_kernels=True),
    )
    multiplications = []
    for network in (plain, symmetric):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 3, fitting(32, grid), fitting(32, grid)))
        multiplications.append(counter.get_total_flops())
    assert multiplications[0] == multiplications[1]
    assert count(symmetric) < 0.35 * count(plain)
    for name, conv in convolutions(symmetric).items():
        assert conv.expanded_weight().shape == convolutions(plain)[name].weight.shape


@pytest.mark.parametrize("group", ["p4", "p4m"])
def test_at_equal_width_a_group_network_has_as_many_planes_as_the_unet_has_channels(group):
    plain, network = build_unet("z2", width=16), build_unet(group, width=16, budget="equal width")
    for name, conv in convolutions(network).items():
        assert conv.out_channels * GROUPS[group].order == convolutions(plain)[name].out_channels


def test_the_papers_literal_pooling_trains_though_it_is_not_equivariant_and_names_the_sizes_it_takes():
    network, x = build_unet("p4m", width=8, depth=2, grid="literal").double(), torch.randn(2, 3, 16, 16).double()
    before = copy.deepcopy(network.state_dict())
    train_briefly(network, x)
    assert all((after != before[name]).any() for name, after in network.state_dict().items())
    for mode in (True, False):
        assert equivariance_errors(network.train(mode), x)[1] > 1e-2
    with pytest.raises(StudyError, match=r"^an image of 17 x 17 does not fit the network: 17 is not .* to 16 or 20$"):
        network(torch.zeros(1, 3, 17, 17).double())


@GROUP
@GRID
def test_networks_are_equivariant_under_the_elements_of_their_group_alone(group, grid):
    network = build_unet(group, width=4, depth=2, grid=grid).double()
    x = torch.randn(2, 3, fitting(8, grid), fitting(12, grid), dtype=torch.float64)
    own = roto_reflections(GROUPS[group])
    assert_equivariant_before_and_after_training(network, x, own, broken=1e-2)


@GROUP
@GRID
def test_networks_are_equivariant_to_rounding_in_float32(group, grid):
    network = build_unet(group, width=8, depth=3, grid=grid)
    x = torch.randn(2, 3, fitting(32, grid), fitting(32, grid))
    assert_equivariant(network, x, GROUPS[group], tolerance=1e-4)
    train_briefly(network, x)
    assert_equivariant(network, x, GROUPS[group], tolerance=1e-4)


@pytest.mark.parametrize("group", list(GROUPS)[1:])
@GRID
@pytest.mark.parametrize("width", [32, 64])
def test_group_networks_have_as_many_parameters_as_the_unet(group, grid, width):
    with torch.device("meta"):  # parameters to count, not to fill
        counts = [count(build_unet(name, width=width, grid=grid)) for name in ("z2", group)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


@pytest.mark.parametrize(
    "options", [{"group": name} for name in GROUPS] + [{"group": "p4m", "symmetric_kernels": True}], ids=str
)
@GRID
def test_weights_start_as_large_as_those_of_the_plain_unet_so_that_adams_steps_turn_them_as_far(options, grid):
    plain, network = (convolutions(build_unet(**one, width=32, grid=grid)) for one in ({"group": "z2"}, options))
    assert network.keys() == plain.keys()
    for name, conv in network.items():
        sizes = [weight.detach().abs().mean().item() for weight in (conv.weight, plain[name].weight)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.04 if conv.weight.numel() > 1000 else 0.1)


@GROUP
def test_initial_weights_are_those_of_the_layers_but_for_their_scale_which_batch_norm_takes_away(group):
    torch.manual_seed(1)
    network = build_unet(group, width=8, depth=2).double()
    torch.manual_seed(1)
    channels = field_counts(GROUPS[group], 8, 2)
    by_fan_in = UNet(make_layers(GROUPS[group]), channels, in_channels=3, num_classes=1, grid=GRIDS["even"]).double()
    for conv, other in zip(convolutions(network).values(), convolutions(by_fan_in).values(), strict=True):
        torch.testing.assert_close(conv.weight / conv.weight.norm(), other.weight / other.weight.norm())
    assert torch.equal(network.project.weight, by_fan_in.project.weight)  # no batch norm follows
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for norm in (*network.modules(), *by_fan_in.modules()):
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            norm.eps = 1e-20
    torch.testing.assert_close(network(x), by_fan_in(x), rtol=1e-4, atol=1e-5)


def test_the_plain_unet_is_made_of_torch_layers_only():
    parts = list(build_unet("z2", width=4).modules())
    assert type(parts[0]) is UNet
    assert all(type(part) is Block or type(part).__module__.startswith("torch.nn.") for part in parts[1:])


@GROUP
@pytest.mark.parametrize(
    ("grid", "depth", "size", "nearest"),
    [
        ("even", 4, (330, 320), "320 or 336"),
        ("even", 4, (320, 330), "320 or 336"),
        ("even", 4, (321, 321), "320 or 336"),
        ("even", 4, (8, 16), "16"),
        ("even", 2, (18, 16), "16 or 20"),
        ("odd", 4, (320, 320), "305 or 321"),
        ("odd", 4, (321, 320), "305 or 321"),
        ("odd", 4, (1, 17), "17"),
        ("odd", 1, (4, 3), "3 or 5"),
    ],
)
def test_sizes_that_would_break_the_equivariance_are_refused_with_the_nearest_that_work(
    group, grid, depth, size, nearest
):
    network = build_unet(group, width=1, depth=depth, grid=grid)
    with pytest.raises(ValueError, match=rf"^an image of {size[0]} x {size[1]} would break .* to {nearest}$"):
        network(torch.zeros(1, 3, *size))


@GROUP
@pytest.mark.parametrize(("grid", "size"), [("even", (320, 16)), ("odd", (321, 17)), ("odd", (17, 33))])
def test_sides_that_both_fit_need_not_be_equal(group, grid, size):
    network = build_unet(group, width=1, grid=grid).eval()
    assert network(torch.zeros(1, 3, *size)).shape == (1, 1, *size)


@GROUP
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 3, 16, 16)], ids=str)
def test_what_is_not_a_batch_of_images_is_refused(group, shape):
    with pytest.raises(ValueError, match=r"^a U-Net expects images \(B, C, H, W\), not \(.*\)$"):
        build_unet(group, width=1, depth=1)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": "p6"}, "unknown group 'p6'; choose from z2, p2, pm, pmm, p4, p4m"),
        ({"group": "P4M"}, "unknown group 'P4M'; choose from z2, p2, pm, pmm, p4, p4m"),
        ({"grid": "paper"}, "unknown grid 'paper'; choose from even, odd"),
        ({"implementation": "groupy"}, "unknown implementation 'groupy'; choose from native"),
        ({"budget": "equal time"}, "unknown budget 'equal time'; choose from equal parameters, equal width"),
        ({"readout": "sum"}, "unknown readout 'sum'; choose from projection, max, mean"),
        ({"readout": "max", "group": "z2"}, "readout is 'max', but this U-Net has no orientations; give readout="),
        ({"readout": "max", "symmetric_kernels": True}, "readout is 'max', but this U-Net has no orientations"),
        ({"readout": "max", "implementation": "escnn"}, "symmetric kernels and pooled orientations are not there on"),
        ({"symmetric_kernels": True, "implementation": "escnn"}, "symmetric kernels and pooled orientations are not"),
        ({"depth": 0}, "depth is 0; give an integer from 1 to 5"),
        ({"depth": 6}, "depth is 6; give an integer from 1 to 5"),
        ({"depth": 2.0}, "depth is 2.0; give an integer from 1 to 5"),
        ({"width": 0}, "width is 0; give a positive integer"),
        ({"width": -8}, "width is -8; give a positive integer"),
        ({"width": 8.5}, "width is 8.5; give a positive integer"),
        ({"in_channels": 0}, "in_channels is 0; give a positive integer"),
        ({"num_classes": 0}, "num_classes is 0; give a positive integer"),
    ],
)
def test_arguments_out_of_range_are_refused_with_the_remedy(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build_unet(**{"group": "p4", "width": 4} | wrong)


@GROUP
@GRID
def test_the_state_of_one_network_makes_another_compute_the_same(group, grid):
    first, second = (build_unet(group, width=4, depth=2, grid=grid) for _ in range(2))
    x = torch.randn(2, 3, fitting(8, grid), fitting(8, grid))
    first(x)  # moves the running statistics
    assert not torch.equal(first.eval()(x), second.eval()(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@GROUP
def test_the_state_is_parameters_and_running_statistics_in_train_and_eval_mode(group):
    network = build_unet(group, width=2, depth=1)
    keys = set(network.train().state_dict())
    network.eval()(torch.zeros(1, 3, 4, 4))
    assert set(network.state_dict()) == keys
    assert {key.rpartition(".")[2] for key in keys} == {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip


@GROUP
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_and_pickles_compute_the_same_and_are_independent(group, duplicate):
    network = build_unet(group, width=4, depth=2)
    x = torch.randn(2, 3, 8, 8)
    network(x).sum().backward()
    network.eval()
    twin = duplicate(network)
    assert torch.equal(twin(x), network(x))
    before = network(x)
    nn.init.zeros_(twin.project.weight)
    assert torch.equal(network(x), before)


@GROUP
@GRID
def test_every_parameter_learns(group, grid):
    network = build_unet(group, width=4, depth=2, grid=grid)
    network(torch.randn(2, 3, fitting(8, grid), fitting(8, grid))).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("group", ["z2", "p4", "p4m"])
def test_whole_networks_compile_without_a_graph_break(group):
    torch.compiler.reset()  # forget what other tests compiled: there is a limit to it
    network = build_unet(group, width=2, depth=1).eval()
    x = torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))


@GROUP
def test_whole_networks_export(group):
    network = build_unet(group, width=2, depth=1).eval()
    x = torch.randn(1, 3, 4, 6)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
