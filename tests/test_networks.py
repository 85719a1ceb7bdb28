"""The contract of a network, kept by every one that is registered, and by one of another shape that is registered here.

In the spirit of segmentation_models.pytorch's tests/models/base.py: what is new in the registry is tested here too.
"""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import HAS_ESCNN
from torch import nn

from study.data.patches.splits import stored_split
from study.equivariance import assert_equivariant, equivariance_errors, train_briefly
from study.errors import StudyError
from study.experiments.presets import override
from study.experiments.recipe import Recipe
from study.experiments.records import read_record
from study.experiments.training import train
from study.experiments.trials import Study, run_trial
from study.gconv.sizes import is_exact
from study.groups import GROUPS
from study.networks import registry
from study.networks.checkpoint import load_checkpoint, load_model, save_checkpoint
from study.networks.grid import GRIDS, PAPER_LITERAL, Grid, Sizes
from study.networks.layer_sets import equalise_steps, field_counts, make_layers
from study.networks.models import MODELS, PAPER_MODELS
from study.networks.network import Architecture, Network
from study.networks.parts import Block, Part, two_convolutions
from study.networks.receptive_field import PIXELWISE, Span, radius, seen
from study.networks.registry import NETWORKS, find_network, from_values, to_values
from study.networks.unet import UNetArchitecture, build_unet
from study.prediction.tiling import plan_tiles, run_tiles


class Stack(Network):
    """No U-Net: it never pools, joins all it has made (as a DenseNet does), and has a filter of 5 x 5."""

    def __init__(self, layers, fields, *, convolutions, in_channels, num_classes):
        super().__init__()
        self.sizes = Sizes(period=1, remainder=0, exact=True)
        self.lift = two_convolutions(layers, layers.lift, in_channels, fields)
        self.dense = nn.ModuleList(
            Block(layers.conv((n + 1) * fields, fields, 5, padding=2, bias=False), layers.norm(fields), layers.relu())
            for n in range(convolutions)
        )
        self.project = layers.project((convolutions + 1) * fields, num_classes, 1)

    def forward(self, x):
        self.check_size(*x.shape[-2:])
        maps = [self.lift(x)]
        for block in self.dense:
            maps.append(block(torch.cat(maps, dim=1)))
        return self.project(torch.cat(maps, dim=1))

    def sees(self, span):
        spans = len(self.dense) * [seen(self.project, span)]
        for block in self.dense:
            spans = [seen(block, wide) for wide in spans]
        return seen(self.lift, spans[-1])


@dataclass(frozen=True)
class StackArchitecture(Architecture):
    shared: ClassVar = ("fields", "convolutions")

    fields: int
    convolutions: int = 2

    @property
    def sizes(self):
        return Sizes(period=1, remainder=0, exact=True)

    def build(self):
        group = GROUPS[self.group]
        (fields,) = field_counts(group, self.fields, 0)
        ends = {"in_channels": self.in_channels, "num_classes": self.num_classes}
        network = Stack(make_layers(group), fields, convolutions=self.convolutions, **ends)
        equalise_steps(network)
        return network


SHARED = {
    "unet": {"width": 6, "depth": 2, "grid": "even"},
    "unet, odd": {"width": 6, "depth": 2, "grid": "odd"},
    "residual-unet": {"width": 6, "depth": 2, "grid": "even"},
    "residual-unet, odd": {"width": 6, "depth": 1, "grid": "odd", "blocks": 2},
    "stack": {"fields": 6},
}
"""Small settings of every network; what follows a comma tells several of one network apart."""

NETWORK = pytest.mark.parametrize("name", SHARED)
GROUP = pytest.mark.parametrize("group", GROUPS)


@pytest.fixture(autouse=True)
def _stack(monkeypatch):
    monkeypatch.setitem(NETWORKS, "stack", StackArchitecture)


def architecture(name, group="p4m", **settings):
    return from_values({"network": name.partition(",")[0], "group": group} | SHARED[name] | settings)


def images(network, *sizes, dtype=torch.float64):
    height, width = (network.sizes.at_least(n) for n in sizes or (16, 21))
    return torch.randn(2, 3, height, width, dtype=dtype)


def random_norms(network):
    """As if trained: batch norm has moments, scales and shifts."""
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, 0, 0.3)
            norm.momentum = None
    with torch.no_grad():
        network.train()(images(network, dtype=next(network.parameters()).dtype))
    return network.eval()


def convolutions(network):
    return {key: m for key, m in network.named_modules() if hasattr(m, "kernel_size") and hasattr(m, "weight")}


def test_every_registered_network_is_tested_here():
    assert {name.partition(",")[0] for name in SHARED} == set(registry.NETWORKS)


# The contract


@NETWORK
@GROUP
def test_it_is_exactly_equivariant_before_and_after_training(name, group):
    network = architecture(name, group).build().double()
    x = images(network)
    for _ in range(2):
        assert_equivariant(network, x, GROUPS[group], tolerance=1e-10)
        train_briefly(network, x)


@NETWORK
@GROUP
def test_it_commutes_with_the_roto_reflections_that_its_architecture_names_and_no_others(name, group):
    described = architecture(name, group)
    network = random_norms(described.build().double())
    errors = equivariance_errors(network, images(network, 16, 16)).numpy()
    assert errors[described.symmetries].max() <= 1e-10
    assert errors[~described.symmetries].min(initial=1) > 1e-3


@NETWORK
def test_it_takes_the_sizes_that_it_names_and_refuses_others_with_the_nearest(name):
    described = architecture(name)
    network = described.build().eval()
    assert network.sizes == described.sizes
    period, remainder = network.sizes.period, network.sizes.remainder
    for size in range(1, 3 * period + 2):
        if size >= period and size % period == remainder:
            network.check_size(size, 2 * period + remainder)
            assert network(torch.zeros(1, 3, size, period + remainder)).shape == (1, 1, size, period + remainder)
        else:
            with pytest.raises(StudyError, match=rf"^an image of {size} x .*pad it symmetrically to "):
                network.check_size(size, period + remainder)
            with pytest.raises(StudyError, match=rf" {size} is not a multiple of "):
                network(torch.zeros(1, 3, period + remainder, size))


@NETWORK
@GROUP
def test_an_output_pixel_sees_as_far_as_the_receptive_radius_and_no_farther(name, group):
    """Against perturbation: a NaN taints everything that depends on it, whatever the weights."""
    network = architecture(name, group).build().eval()
    period, reach = network.sizes.period, network.receptive_radius
    size = network.sizes.at_least(2 * reach + 3 * period)
    centre = size // 2 // period * period
    found = 0
    for place in range(centre, centre + period):
        x = torch.randn(1, 3, size, size)
        x[0, :, place, place] = torch.nan
        with torch.no_grad():
            tainted = network(x)[0, 0].isnan().nonzero()
        found = max(found, int((tainted - place).abs().max()))
    assert found == reach


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_a_convolution_of_somebody_s_network_may_name_its_padding(padding):
    reach = {"same": (2, 2), "valid": (0, 4), 1: (1, 3)}[padding]
    assert seen(nn.Conv2d(1, 1, 5, padding=padding), Span(10, 10)) == Span(10 - reach[0], 10 + reach[1])


@NETWORK
def test_tiles_side_by_side_are_the_whole_output(name):
    network = random_norms(architecture(name).build().double())
    height, width = (network.sizes.at_least(n) for n in (4 * network.receptive_radius + 20, 70))
    image = torch.randn(3, height, width, dtype=torch.float64)
    with torch.no_grad():
        whole = network(image[None])[0].numpy()
    tiles = plan_tiles(network, height, width, 2 * network.receptive_radius + 6 * network.sizes.period + 1)
    assert len(tiles) > 2

    def read(tile):
        return image[:, tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]

    for tile, values in run_tiles(network, read, tiles):
        kept = slice(tile.rows.kept_start, tile.rows.kept_stop), slice(tile.columns.kept_start, tile.columns.kept_stop)
        assert np.abs(values - whole[:, *kept]).max() <= 1e-12 * np.abs(whole).max()


@NETWORK
@GROUP
@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_prepared_it_computes_the_same_sees_as_far_and_stays_equivariant(name, group, algorithm):
    network = architecture(name, group).build().double()
    for layer in network.modules():
        if hasattr(layer, "algorithm"):
            layer.algorithm = algorithm
    random_norms(network)
    before = copy.deepcopy(network.state_dict())
    prepared, x = network.prepare(), images(network)
    expected = network(x)
    assert (prepared(x) - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert equivariance_errors(prepared, x, GROUPS[group]).max() <= 1e-12
    assert prepared.receptive_radius == network.receptive_radius
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in prepared.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@NETWORK
@GROUP
def test_its_state_is_the_same_in_train_and_eval_mode_and_moves_to_another(name, group):
    first, second = (architecture(name, group).build() for _ in range(2))
    keys = list(first.train().state_dict())
    x = images(first, dtype=torch.float32)
    first(x)  # moves the running statistics
    assert list(first.eval().state_dict()) == keys
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.eval()(x), first(x))


@NETWORK
@GROUP
def test_a_checkpoint_comes_back_as_the_same_network_and_architecture(name, group, tmp_path):
    described = architecture(name, group)
    network = described.build().eval()
    save_checkpoint(tmp_path / "best.pt", described, network.state_dict(), note="kept")
    assert from_values(load_checkpoint(tmp_path / "best.pt")["architecture"]) == described
    loaded, x = load_model(tmp_path / "best.pt"), images(network, dtype=torch.float32)
    assert not loaded.training
    assert torch.equal(loaded(x), network(x))


@NETWORK
@pytest.mark.parametrize(("in_channels", "num_classes"), [(1, 1), (4, 3)])
def test_channels_and_classes_are_free(name, in_channels, num_classes):
    network = architecture(name, in_channels=in_channels, num_classes=num_classes).build()
    x = torch.randn(2, in_channels, *2 * [network.sizes.at_least(8)])
    assert network(x).shape == (2, num_classes, *x.shape[2:])


@NETWORK
def test_every_parameter_learns(name):
    network = architecture(name).build()
    network(images(network, dtype=torch.float32)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("group", list(GROUPS)[1:])
def test_on_a_group_it_has_as_many_parameters_as_the_plain_one(name, group):
    with torch.device("meta"):  # parameters to count, not to fill
        plain, network = (architecture(name, of, width=32, depth=4).build() for of in ("z2", group))
    plain, network = (sum(parameter.numel() for parameter in of.parameters()) for of in (plain, network))
    assert network == pytest.approx(plain, rel=0.02)


@NETWORK
@GROUP
def test_weights_that_batch_norm_follows_start_as_large_as_those_of_the_plain_network(name, group):
    wide = {"width": 48} if "width" in SHARED[name] else {"fields": 48}
    plain, network = (convolutions(architecture(name, of, **wide).build()) for of in ("z2", group))
    assert plain.keys() == network.keys()
    for key in plain.keys() - {"project"}:
        sizes = [convs[key].weight.detach().abs().mean().item() for convs in (network, plain)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05 if network[key].weight.numel() > 1000 else 0.2)


@pytest.mark.parametrize("name", ["unet", "residual-unet", "stack"])
def test_it_compiles_and_exports(name):
    torch.compiler.reset()  # forget what other tests compiled: there is a limit to it
    network = architecture(name, **{} if name == "stack" else {"depth": 1}).build().eval()
    x = images(network, 8, 8, dtype=torch.float32)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))


# In a study


@pytest.mark.parametrize("name", ["residual-unet", "stack"])
def test_it_is_trained_by_a_recipe_and_leaves_a_record_and_a_checkpoint(name, preset, store, fabric, tmp_path):
    recipe = replace(preset.recipe, network=SHARED[name] | {"network": name})
    study = Study("tiny", replace(preset, recipe=recipe, models=("p4m",)), store, tmp_path)
    trial = study.trials()[0]
    run_trial(study, trial, fabric)
    record = read_record(study.record_path(trial))
    assert record["settings"].items() >= {"network": name, **SHARED[name]}.items()
    assert study.is_done(trial)
    network = load_model(study.checkpoint_path(trial))
    assert type(network) is type(architecture(name).build())
    x = images(network, dtype=torch.float32)
    torch.testing.assert_close(network.prepare()(x), network(x))


def test_a_preset_takes_another_network_and_its_settings_by_name(preset):
    changed = override(preset, ["blocks=3", "width=12", "network=residual-unet"])
    assert dict(changed.recipe.network) == {
        "network": "residual-unet",
        "width": 12,
        "depth": 1,
        "grid": "even",
        "blocks": 3,
    }
    built = MODELS["p4m"].architecture(**changed.recipe.network)
    assert (built.group, built.blocks, built.width) == ("p4m", 3, 12)
    assert len(built.build().encoder[0]) == 3
    with pytest.raises(StudyError, match=r"^cannot set 'blocks=3'; give .* width, depth, grid"):
        override(preset, ["blocks=3"])
    with pytest.raises(StudyError, match=r"^blocks is 0; give a positive integer$"):
        override(preset, ["network=residual-unet", "blocks=0"])
    with pytest.raises(StudyError, match=r"^unknown network 'resnet'; choose from unet, residual-unet"):
        override(preset, ["network=resnet"])


def test_settings_that_another_network_lacks_go_with_the_old_one_and_its_own_come(preset):
    changed = override(preset, ["network=stack", "fields=4"])
    assert dict(changed.recipe.network) == {"network": "stack", "fields": 4}
    with pytest.raises(StudyError, match=r"not the settings of the network 'stack' .*readout"):
        override(changed, ["models=p4m-max"])
    with pytest.raises(StudyError, match=r"not the settings of the network 'stack' .*width"):
        override(changed, ["models=unet-time"])


def test_a_recipe_in_one_table_is_as_records_have_it(recipe):
    flat = {"width": 4, "depth": 1, "grid": "even", "batch_size": 4, "epochs": 2, "batches_per_epoch": 2}
    defaults = {"learning_rate": 1e-3, "schedule": "plateau", "patience": 19, "precision": "32-true"}
    assert list(recipe.settings().items()) == list((flat | defaults).items())
    assert Recipe.of(**recipe.settings()) == recipe
    named = replace(recipe, network={"network": "unet", **recipe.network})  # as before there were others
    assert named.settings() == recipe.settings()


def test_the_same_weights_come_from_a_recipe_however_it_names_the_network(recipe, store, fabric, tmp_path):
    parts = stored_split(store, 1.0, 0)
    named = replace(recipe, network={"network": "unet", **recipe.network})
    trained = [
        train(each, "p4", store, parts, seed=0, fabric=fabric, folder=tmp_path / str(n)).network.state_dict()
        for n, each in enumerate((recipe, named))
    ]
    assert all(torch.equal(*pair) for pair in zip(*(state.values() for state in trained), strict=True))


# The registry


def test_an_architecture_is_plain_values_and_old_ones_are_unets():
    described = UNetArchitecture("p4m", 4, 1, "even")
    values = to_values(described)
    assert values["network"] == "unet"
    assert from_values(values) == described
    del values["network"], values["num_classes"], values["in_channels"]
    assert from_values(values) == described


def test_unknown_networks_and_settings_are_refused_by_name():
    with pytest.raises(StudyError, match=r"^unknown network 'vit'; choose from unet, residual-unet"):
        find_network("vit")
    with pytest.raises(StudyError, match=r"^these are not the settings of the network 'unet' .*heads"):
        from_values({"group": "p4", "width": 4, "heads": 2})
    with pytest.raises(StudyError, match=r"^these are not the settings of the network 'unet' .*width"):
        from_values({"group": "p4"})


@pytest.mark.parametrize("model", PAPER_MODELS)
def test_a_model_is_an_architecture_of_any_network_that_has_its_settings(model):
    for name in SHARED:
        built = MODELS[model].architecture(name.partition(",")[0], **SHARED[name])
        assert built == architecture(name, MODELS[model].group)


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_on_escnn_it_sees_as_far(name):
    native, escnn = (architecture(name, width=2, depth=1, implementation=kind).build() for kind in ("native", "escnn"))
    assert native.receptive_radius == escnn.receptive_radius


# The receptive field


def brute_force_span(layer, span, length=60):
    """What a layer on one channel reads for a span of its output, by a NaN at every place of its input."""
    found = []
    for place in range(length):
        x = torch.ones(1, 1, length, length)
        x[..., place, :] = torch.nan
        tainted = layer(x).isnan().any(dim=3)[0, 0].nonzero().flatten().tolist()
        if any(span.first <= y <= span.last for y in tainted):
            found.append(place)
    return Span(min(found), max(found))


@pytest.mark.parametrize("span", [Span(10, 10), Span(9, 14)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 5, stride=3, padding=1),
        nn.Conv2d(1, 1, 3, padding=4, dilation=2),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(4, 2),
        nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1),
        nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1),
        nn.ConvTranspose2d(1, 1, 5, stride=3),
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d()),
    ],
    ids=str,
)
def test_spans_of_layers_are_what_perturbation_finds(layer, span):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
        assert seen(layer.eval(), span) == brute_force_span(layer, span)


def test_a_filter_that_is_not_square_sees_as_far_as_its_longer_side():
    assert seen(nn.Conv2d(1, 1, (3, 7), padding=(1, 3)), Span(0, 0)) == Span(-3, 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(1, 4),
        nn.InstanceNorm2d(4),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Upsample(scale_factor=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_may_see_the_whole_image_cannot_be_tiled(layer):
    network = build_unet("z2", width=4, depth=1)
    network.encoder[0][1] = layer
    with pytest.raises(StudyError, match=r"nobody knows how far .* sees, so the network cannot be tiled"):
        plan_tiles(network, 100, 100, 64)


def test_a_deeper_block_gives_a_wider_margin_and_no_seams():
    network = build_unet("p4m", width=6, depth=1).double()
    shallow, block = network.receptive_radius, network.encoder[1]
    for layer in (*copy.deepcopy(block[3:]), *copy.deepcopy(block[3:])):
        block.append(layer)
    assert network.receptive_radius == shallow + 2 * 2  # two more 3x3 at half resolution
    random_norms(network)
    image = torch.randn(3, 96, 40, dtype=torch.float64)
    with torch.no_grad():
        whole = network(image[None])[0].numpy()
    for tile, values in run_tiles(
        network, lambda t: image[:, t.rows.start : t.rows.stop], plan_tiles(network, 96, 40, 64)
    ):
        assert (
            np.abs(values - whole[:, tile.rows.kept_start : tile.rows.kept_stop]).max() <= 1e-12 * np.abs(whole).max()
        )


def test_a_part_has_to_say_what_it_sees():
    with pytest.raises(NotImplementedError, match="Part has to say what it sees"):
        radius(Part(), 1)
    assert all(
        seen(kind(), Span(2, 5)) == Span(2, 5) for kind in PIXELWISE if kind is not nn.modules.dropout._DropoutNd
    )


# The law of sizes


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_sizes_of_the_grids_are_the_papers(depth):
    period = 2**depth
    assert GRIDS["even"].sizes(depth) == Sizes(period, 0, exact=True)
    assert GRIDS["odd"].sizes(depth) == Sizes(period, 1, exact=True)
    assert PAPER_LITERAL.sizes(depth) == Sizes(period, 0, exact=False)


@pytest.mark.parametrize("up", [(4, 2, 1), (2, 2, 0), (3, 2, 1), (5, 3, 1), (3, 3, 0)], ids=str)
@pytest.mark.parametrize("pool", [(2, 2, 0), (3, 2, 1), (3, 3, 0), (5, 3, 1)], ids=str)
@pytest.mark.parametrize("depth", [1, 2])
def test_sizes_are_those_that_torch_leads_back_to_and_exact_where_pooling_commutes_with_turns(pool, up, depth):
    """By brute force: torch's own pooling, transposed convolution and half turns, on every size."""
    grid, ones = Grid(pool, up), torch.ones(1, 1, up[0], 1)

    def down(x):
        return nn.functional.max_pool2d(x, (pool[0], 1), (pool[1], 1), (pool[2], 0))

    def up_sampled(x):
        return nn.functional.conv_transpose2d(x, ones, stride=(up[1], 1), padding=(up[2], 0))

    period, fitting = pool[1] ** depth, {}
    for size in range(2 * period, 3 * period + 1):  # smaller ones may be seen whole from everywhere
        x, sizes, exact = torch.randn(1, 32, size, 1), [size], True
        for _ in range(depth):
            exact = exact and torch.equal(down(x.flip(2)), down(x).flip(2))
            x = down(x)
            sizes.append(x.shape[2])
        back = [up_sampled(torch.zeros(1, 1, n, 1)).shape[2] for n in sizes[1:]]
        if back == sizes[:-1]:
            fitting[size] = exact
    found = {size % period for size in fitting}
    if len(found) != 1 or pool[1] != up[1]:
        with pytest.raises(StudyError, match="do not undo each other's sizes"):
            grid.sizes(depth)
        return
    sizes = grid.sizes(depth)
    assert (sizes.period, sizes.remainder) == (period, found.pop())
    assert {sizes.exact} == set(fitting.values())
    size = next(iter(fitting))
    assert sizes.exact == is_exact_on_the_way(pool, size, depth)


def is_exact_on_the_way(pool, size, depth):
    kernel_size, stride, padding = pool
    for _ in range(depth):
        if not is_exact(size, kernel_size=kernel_size, stride=stride, padding=padding):
            return False
        size = (size + 2 * padding - kernel_size) // stride + 1
    return True


def test_the_next_size():
    assert [Sizes(16, 1, exact=True).at_least(n) for n in (-5, 0, 1, 16, 17, 18, 33)] == [17, 17, 17, 17, 17, 33, 33]
    assert [Sizes(4, 0, exact=True).at_least(n) for n in (0, 4, 5)] == [4, 4, 8]
