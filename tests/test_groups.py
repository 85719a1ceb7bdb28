"""The six groups and their action on images and feature maps, checked against matrices and plain loops."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from conftest import HAS_ESCNN

from study import groups
from study.equivariance import assert_equivariant, equivariance_errors, train_briefly
from study.errors import StudyError
from study.groups import APPROXIMATE_GROUPS, GROUPS, P2, P4, P4M, P8, P8M, PM, PMM, Z2, PlaneGroup, roto_reflections
from study.networks.conversion import copy_weights
from study.networks.models import Model
from study.report.tour import element_name, expanded, orbit

ALL = pytest.mark.parametrize("group", GROUPS.values(), ids=lambda group: group.name)
SIZES = pytest.mark.parametrize(
    "size", [(4, 4), (5, 5), (4, 6), (3, 5), (4, 5)], ids=lambda size: f"{size[0]}x{size[1]}"
)


def pairs(group):
    return product(range(group.order), repeat=2)


def offset(position, size):
    """Twice the offset of a pixel from the centre of the image: an integer, on even sizes too."""
    return 2 * np.array(position) - (np.array(size) - 1)


def position(offset, size):
    return tuple((offset + np.array(size) - 1) // 2)


@ALL
def test_orders_and_names(group):
    assert group.order == {"z2": 1, "p2": 2, "pm": 2, "pmm": 4, "p4": 4, "p4m": 8}[group.name]
    assert GROUPS[group.name] is group
    assert group.matrices.shape == (group.order, 2, 2)
    assert np.issubdtype(group.matrices.dtype, np.integer)


@ALL
def test_identity_is_first(group):
    assert (group.matrices[0] == np.eye(2)).all()
    assert (group.product[0] == np.arange(group.order)).all()
    assert (group.product[:, 0] == np.arange(group.order)).all()


@ALL
def test_product_is_that_of_the_matrices_hence_closed(group):
    assert len({matrix.tobytes() for matrix in group.matrices}) == group.order
    for g, h in pairs(group):
        assert (group.matrices[group.product[g, h]] == group.matrices[g] @ group.matrices[h]).all()


def test_matrices_that_are_not_closed_are_refused():
    class QuarterTurnAlone(PlaneGroup):
        matrices = P4.matrices[:2]

    with pytest.raises(StudyError, match=r"^the matrices of p2 are not closed .*; take one of z2, .*, p4m$"):
        _ = QuarterTurnAlone("p2", 2, False).product

    class IdentityTwice(PlaneGroup):
        matrices = P4.matrices[[0, 0]]

    with pytest.raises(StudyError, match="the matrices of pm are not closed"):
        _ = IdentityTwice("pm", 1, True).product


@pytest.mark.parametrize("group", [*GROUPS.values(), *APPROXIMATE_GROUPS.values()], ids=lambda group: group.name)
def test_a_group_of_ones_own_is_that_of_the_same_name(group):
    own = PlaneGroup(group.name, group.rotations, group.reflections)
    assert own == group
    assert hash(own) == hash(group)
    for name in {"p6", "P2", *GROUPS} - {group.name}:
        with pytest.raises(StudyError, match=rf"^the group with .* is '{group.name}', not '{name}'; give"):
            PlaneGroup(name, group.rotations, group.reflections)


@pytest.mark.parametrize("rotations", [0, 3, 6, 16, -1, 2.0, "4", None], ids=repr)
def test_turns_that_no_group_here_has_are_refused(rotations):
    with pytest.raises(StudyError, match=rf"^rotations is {rotations!r}; give 1, 2, 4 or 8$"):
        PlaneGroup("p2", rotations, False)


def test_the_roto_reflections_of_each_group():
    elements = {group.name: np.flatnonzero(roto_reflections(group)).tolist() for group in (*GROUPS.values(), P8, P8M)}
    assert elements == {
        "z2": [0],
        "p2": [0, 2],
        "pm": [0, 4],
        "pmm": [0, 2, 4, 6],
        "p4": [0, 1, 2, 3],
        "p4m": list(range(8)),
        "p8": [0, 1, 2, 3],
        "p8m": list(range(8)),
    }


@ALL
def test_product_is_associative(group):
    for g, h, k in product(range(group.order), repeat=3):
        assert group.product[group.product[g, h], k] == group.product[g, group.product[h, k]]


@ALL
def test_inverses_are_two_sided(group):
    elements = np.arange(group.order)
    assert (group.product[elements, group.inverse] == 0).all()
    assert (group.product[group.inverse, elements] == 0).all()


@ALL
@SIZES
def test_the_index_says_how_often_to_mirror_and_then_to_rotate(group, size):
    x = torch.rand(2, 3, *size)
    for g in range(group.order):
        j, k = divmod(g, group.rotations)
        mirrored = x.flip(-1) if j else x
        quarters = k * 4 // group.rotations
        assert torch.equal(group.transform_image(x, g), torch.rot90(mirrored, quarters, (-2, -1)))


def test_element_1_turns_counter_clockwise():
    right = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    up = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert torch.equal(P4.transform_image(right, 1), up)


def test_elements_in_words_are_those_of_their_own_group():
    words = {group.name: [element_name(group, g) for g in range(group.order)] for group in (P2, PM, PMM, P4)}
    assert words == {
        "p2": ["0: identity", "1: turn 180°"],
        "pm": ["0: identity", "1: mirror"],
        "pmm": ["0: identity", "1: turn 180°", "2: mirror", "3: mirror,\nturn 180°"],
        "p4": ["0: identity", "1: turn 90°", "2: turn 180°", "3: turn 270°"],
    }
    for group in GROUPS.values():
        assert len(orbit(torch.rand(3, 3), group).axes) == group.order
        assert len(expanded(torch.rand(group.order, 3, 3), group).axes) == group.order**2


@ALL
@SIZES
def test_matrices_say_where_a_lit_pixel_goes(group, size):
    for g, pixel in product(range(group.order), np.ndindex(size)):
        image = torch.zeros(size)
        image[pixel] = 1
        turned = group.transform_image(image, g)
        lit = tuple(turned.nonzero()[0].tolist())
        assert (offset(lit, turned.shape) == group.matrices[g] @ offset(pixel, size)).all()


@ALL
@SIZES
def test_transform_image_is_a_group_action(group, size):
    x = torch.rand(2, *size)
    assert torch.equal(group.transform_image(x, 0), x)
    for g, h in pairs(group):
        twice = group.transform_image(group.transform_image(x, h), g)
        assert torch.equal(twice, group.transform_image(x, int(group.product[g, h])))


@ALL
@SIZES
def test_transform_feature_is_a_group_action(group, size):
    f = torch.rand(1, 2, group.order, *size)
    assert torch.equal(group.transform_feature(f, 0), f)
    for g, h in pairs(group):
        twice = group.transform_feature(group.transform_feature(f, h), g)
        assert torch.equal(twice, group.transform_feature(f, int(group.product[g, h])))


@ALL
@SIZES
def test_transform_feature_reads_f_at_g_inverse_h_and_g_inverse_y(group, size):
    f = torch.rand(1, 2, group.order, *size)
    for g in range(group.order):
        turned = group.transform_feature(f, g)
        back = np.rint(np.linalg.inv(group.matrices[g])).astype(int)
        for h, y in product(range(group.order), np.ndindex(turned.shape[-2:])):
            source = (group.matrices == back @ group.matrices[h]).all(axis=(1, 2)).argmax()
            row, column = position(back @ offset(y, turned.shape[-2:]), size)
            assert torch.equal(turned[:, :, h, y[0], y[1]], f[:, :, source, row, column])


# Irreps


@ALL
def test_irreps_are_homomorphisms_to_orthogonal_matrices(group):
    for irrep in group.irreps:
        assert (irrep[0] == np.eye(irrep.shape[-1])).all()
        for g, h in pairs(group):
            assert (irrep[group.product[g, h]] == irrep[g] @ irrep[h]).all()
            assert (irrep[group.inverse[g]] == irrep[g].T).all()


@ALL
def test_entries_of_irreps_are_orthogonal_functions_on_the_group(group):
    """Schur's relations. Those of P4's plane come in equal pairs, as they commute with a quarter turn."""
    functions, norms = [], []
    for irrep in group.irreps:
        entries = irrep[:, 0] if group is P4 else irrep.reshape(group.order, -1)
        functions += list(entries.T)
        norms += entries.shape[1] * [group.order / irrep.shape[-1]]
    assert (np.inner(functions, functions) == np.diag(norms)).all()


@ALL
def test_irreps_are_complete(group):
    """Their characters tell all apart, and the regular representation has room for no other."""
    characters = np.stack([np.trace(irrep, axis1=1, axis2=2) for irrep in group.irreps])  # (irrep, element)
    gram = characters @ characters.T / group.order
    kinds = np.diag(gram)  # 1 where only multiples of 1 commute with the irrep, 2 where rotations do
    assert (gram == np.diag(kinds)).all()
    assert sum(len(irrep[0]) ** 2 / kind for irrep, kind in zip(group.irreps, kinds, strict=True)) == group.order
    expected = {"z2": [1], "p2": [1, 1], "pm": [1, 1], "pmm": 4 * [1], "p4": [1, 1, 2], "p4m": 5 * [1]}
    assert expected[group.name] == kinds.tolist()
    sizes = [len(irrep[0]) for irrep in group.irreps]
    assert sizes[:-1] == (len(kinds) - 1) * [1]
    assert sizes[-1] == (2 if group in (P4, P4M) else 1)


@pytest.mark.parametrize(
    ("group", "element"),
    [(Z2, 1), (P2, 2), (PM, 4), (PMM, 4), (P4, 4), (P4, 7), (P4M, 8), (Z2, -1), (P2, -1), (P4, -1), (P4M, -1)],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_an_element_of_another_group_is_refused(group, element):
    with pytest.raises(IndexError, match=f"{group.name} has the elements 0 to {group.order - 1}, not {element}"):
        group.transform_image(torch.zeros(3, 3), element)
    with pytest.raises(IndexError, match=group.name):
        group.transform_feature(torch.zeros(1, 1, group.order, 3, 3), element)


@ALL
@pytest.mark.parametrize("lead", [(), (1,), (1, 1), (1, 1, 3), (1, 1, 1, 8)], ids=str)
def test_what_is_not_a_feature_map_is_refused(group, lead):
    with pytest.raises(ValueError, match=rf"on {group.name} is \(B, K, {group.order}, H, W\)"):
        group.transform_feature(torch.zeros(*lead, 3, 3), 0)


@ALL
def test_copies_and_pickles_are_equal(group):
    assert len(group.inverse) == group.order  # the tables are made on first use, so make them before the copy
    assert copy.deepcopy(group) == group
    assert pickle.loads(pickle.dumps(group)) == group


# A new group: its name and its mirror are all that a pixel grid needs to be told


@pytest.fixture
def cm(monkeypatch):
    """The mirror in the diagonal alone, registered as ``study/groups.py`` registers its own."""
    diagonal = ((0, 1), (1, 0))
    monkeypatch.setitem(groups._NAMES, (1, True, diagonal), "cm")
    group = PlaneGroup("cm", rotations=1, reflections=True, mirror=diagonal)
    monkeypatch.setitem(GROUPS, "cm", group)
    return group


def test_a_group_that_nobody_named_is_refused_with_the_place_to_name_it():
    with pytest.raises(StudyError, match=r"^there is no group with .* mirror=.*; name it in study/groups.py$"):
        PlaneGroup("cm", 1, True, ((0, 1), (1, 0)))


@pytest.mark.parametrize("algorithm", ["dense", "fourier"])
def test_a_new_group_has_layers_a_network_and_a_model_without_further_code(cm, algorithm):
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert torch.equal(cm.transform_image(x, 1), x.transpose(-2, -1))
    assert np.flatnonzero(roto_reflections(cm)).tolist() == [0, 5]
    network = Model("CM U-Net", "cm").architecture(width=6, depth=2, grid="even").build().double()
    for layer in network.modules():
        if hasattr(layer, "algorithm"):
            layer.algorithm = algorithm
    train_briefly(network, x)
    assert_equivariant(network, x, cm, tolerance=1e-10)
    errors = equivariance_errors(network.eval(), x).numpy()
    assert errors[~roto_reflections(cm)].min() > 1e-2
    torch.testing.assert_close(network.prepare()(x), network(x))


@pytest.mark.skipif(not HAS_ESCNN, reason="escnn is not installed")
def test_a_new_group_is_the_same_on_escnn(cm):
    torch.manual_seed(0)
    theirs, ours = (
        Model("CM", "cm", **kind).architecture(width=4, depth=1, grid="even").build().eval()
        for kind in ({"implementation": "escnn", "basis": "full"}, {})
    )
    assert max(copy_weights(theirs, ours).values()) < 1e-6
    x = torch.randn(1, 3, 8, 8)
    assert (ours(x).sigmoid() - theirs(x).sigmoid()).abs().max() <= 1e-5
