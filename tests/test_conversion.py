"""Whole networks and checkpoints from one implementation to the other, after a training."""

import copy
import subprocess
import sys

import pytest
import torch

from study import gconv
from study.equivariance import equivariance_errors, train_briefly
from study.errors import StudyError
from study.groups import GROUPS, P4, P4M
from study.networks.checkpoint import load_checkpoint, load_model, save_checkpoint
from study.networks.conversion import GROUPY_ELEMENTS, convert_checkpoint, copy_filter, copy_weights
from study.networks.registry import from_values
from study.networks.unet import UNetArchitecture, build_unet

every_group = pytest.mark.parametrize("group", GROUPS)


def build(group, implementation="native", basis=None, grid="even"):
    torch.manual_seed(0)
    return build_unet(group, width=6, depth=2, grid=grid, implementation=implementation, basis=basis)


def trained(network, dtype=torch.float32):
    """After some steps on the same batches in the same order, whatever the network."""
    torch.manual_seed(1)
    network.to(dtype)
    train_briefly(network, torch.randn(2, 3, 8, 8, dtype=dtype), steps=8)
    return network


def images(network, dtype=torch.float32):
    side = 16 + network.sizes.remainder
    return torch.randn(2, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(2))


@every_group
@pytest.mark.parametrize("basis", ["escnn", "full"])
def test_a_network_trained_on_escnn_is_the_same_function_in_ours(group, basis):
    theirs = trained(build(group, "escnn", basis))
    ours = build(group)
    residuals = copy_weights(theirs, ours)
    assert len(residuals) == 13
    assert max(residuals.values()) < 1e-15
    x = images(ours)
    for mode in (False, True):
        difference = ours.train(mode)(x).sigmoid() - theirs.train(mode)(x).sigmoid()
        assert difference.abs().max() <= 1e-5


@every_group
def test_our_trained_network_is_the_same_function_in_the_full_basis(group):
    ours = trained(build(group))
    theirs = build(group, "escnn", "full")
    assert max(copy_weights(ours, theirs).values()) < 1e-6
    x = images(ours)
    for mode in (False, True):
        difference = ours.train(mode)(x).sigmoid() - theirs.train(mode)(x).sigmoid()
        assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("group", list(GROUPS)[1:])
@pytest.mark.parametrize("basis", ["escnn", "full"])
def test_trained_networks_agree_in_float64(group, basis):
    theirs = trained(build(group, "escnn", basis), torch.float64)
    ours = build(group).double()
    copy_weights(theirs, ours)
    x = images(ours, torch.float64).requires_grad_()
    for mode in (True, False):
        outputs = [network.train(mode)(x) for network in (theirs, ours)]
        gradients = [torch.autograd.grad(output.sin().sum(), x)[0] for output in outputs]
        for one, other in (outputs, gradients):
            assert (one - other).abs().max() <= 1e-5 * other.abs().max()  # 1e-6 a layer, and there are thirteen
    for name, layer in ours.named_modules():  # in train mode both saw x
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            twin = getattr(theirs.get_submodule(name), "moments", None)
            torch.testing.assert_close(twin.running_mean, layer.running_mean, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(twin.running_var, layer.running_var, atol=1e-6, rtol=1e-5)
    assert equivariance_errors(ours, x.detach(), GROUPS[group]).max() < 1e-12
    assert equivariance_errors(theirs, x.detach(), GROUPS[group]).max() < 1e-5


@pytest.mark.parametrize("group", list(GROUPS)[1:])
def test_both_implementations_have_as_many_parameters(group):
    count = [sum(p.numel() for p in build(group, *kind).parameters()) for kind in [(), ("escnn", "full")]]
    assert count[0] == count[1]
    assert sum(p.numel() for p in build(group, "escnn", "escnn").parameters()) < count[0]


@pytest.mark.parametrize("group", list(GROUPS)[1:])
def test_there_and_back_again(group):
    ours, again = trained(build(group)), build(group)
    theirs = build(group, "escnn", "full")
    copy_weights(ours, theirs)
    copy_weights(theirs, again)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_the_default_basis_reports_what_it_lacks():
    residuals = copy_weights(build("p4m"), build("p4m", "escnn"))
    assert all(0.2 < residual < 1 for residual in residuals.values())
    assert residuals["up.0.0"] > residuals["encoder.0.3"]  # 40 of 128 dimensions against 48 of 72


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(StudyError, match=r"does not fit .*equal architectures"):
        copy_weights(build("p4"), build("p4m", "escnn"))
    with pytest.raises(StudyError, match=r"no layer .*equal architectures"):
        copy_weights(build_unet("p4", width=6, depth=1), build_unet("p4", width=6, depth=2))
    with pytest.raises(StudyError, match="does not fit"):
        copy_filter(gconv.GroupConv2d(1, 1, 3, group=P4), gconv.GroupConv2d(1, 1, 3, group=P4, bias=False))


@pytest.mark.parametrize("grid", ["even", "odd"])
@pytest.mark.parametrize(("to", "basis"), [("native", None), ("escnn", "full")])
def test_a_checkpoint_of_either_kind_is_converted(grid, to, basis, tmp_path):
    kinds = [UNetArchitecture("p4m", 6, 2, grid), UNetArchitecture("p4m", 6, 2, grid, "escnn", "full")]
    source, expected = kinds if to == "escnn" else reversed(kinds)
    torch.manual_seed(0)
    network = source.build()
    with torch.no_grad():
        network(torch.randn(4, 3, 8 + (grid == "odd"), 8 + (grid == "odd")))  # moves the running statistics
    save_checkpoint(tmp_path / "a.pt", source, network.state_dict(), data={"source": "test"})
    converted = convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt", to=to, basis=basis)
    assert max(converted.residuals.values()) < 1e-6
    assert converted.difference <= 1e-5
    checkpoint = load_checkpoint(tmp_path / "b.pt")
    assert from_values(checkpoint["architecture"]) == expected
    assert checkpoint["data"] == {"source": "test"}
    (step,) = checkpoint["converted"]
    assert step["from"].endswith("a.pt")
    assert step["architecture"]["implementation"] == source.implementation
    x = images(network)
    difference = load_model(tmp_path / "b.pt")(x).sigmoid() - network.eval()(x).sigmoid()
    assert difference.abs().max() <= 1e-5


def test_a_checkpoint_that_ours_cannot_hold_is_refused(tmp_path):
    architecture = UNetArchitecture("p8", 4, 1, "even", "escnn")
    save_checkpoint(tmp_path / "p8.pt", architecture, architecture.build().state_dict())
    with pytest.raises(StudyError, match=r"p8\.pt is of the group p8, which only escnn has"):
        convert_checkpoint(tmp_path / "p8.pt", tmp_path / "out.pt", to="native")
    assert not (tmp_path / "out.pt").exists()


def test_groupy_filters_and_outputs():
    """GrouPy's P4MConvP4M by its published convention, element by element, against ours with 4 and 6 exchanged."""
    # garray/D4_array.py: the element (m, r) acts on (u, v) = (row, column) offsets by M^m R^r with M = diag(-1, 1)
    mirror, quarter = torch.tensor([[-1, 0], [0, 1]]), torch.tensor([[0, -1], [1, 0]])
    elements = [torch.linalg.matrix_power(mirror.double(), m).long() for m in (0, 1) for _ in range(4)]
    elements = [e @ torch.linalg.matrix_power(quarter.double(), r % 4).long() for r, e in enumerate(elements)]

    def place(matrix):
        return next(i for i, e in enumerate(elements) if torch.equal(e, matrix))

    assert [P4M.matrices.tolist().index(e.tolist()) for e in elements] == GROUPY_ELEMENTS

    psi = torch.randn(2, 3, 8, 3, 3, dtype=torch.float64)  # as GrouPy would have learned it
    f = torch.randn(1, 3, 8, 5, 5, dtype=torch.float64)  # as GrouPy would have computed it
    weight = torch.empty(2, 8, 3, 8, 3, 3, dtype=torch.float64)
    for g, element in enumerate(elements):
        inverse = element.T
        for h, other in enumerate(elements):
            for u in range(3):
                for v in range(3):
                    row, column = inverse @ torch.tensor([u - 1, v - 1]) + 1
                    weight[:, g, :, h, u, v] = psi[:, :, place(inverse @ other), row, column]
    theirs = torch.nn.functional.conv2d(f.flatten(1, 2), weight.flatten(2, 3).flatten(0, 1)).view(1, 2, 8, 3, 3)

    ours = gconv.GroupConv2d(3, 2, 3, group=P4M, bias=False).double()
    with torch.no_grad():
        ours.weight.copy_(psi[:, :, GROUPY_ELEMENTS])
    torch.testing.assert_close(ours(f[:, :, GROUPY_ELEMENTS]), theirs[:, :, GROUPY_ELEMENTS], atol=1e-12, rtol=1e-12)


def test_everything_else_works_without_escnn(tmp_path):
    """And asking for it says how to install it; the loss of an installation must not look like a bad checkpoint."""
    architecture = UNetArchitecture("p4", 4, 1, "even", "escnn")
    save_checkpoint(tmp_path / "e.pt", architecture, architecture.build().state_dict())
    script = """if True:
        import sys
        sys.modules["escnn"] = None  # an import of it fails, as if it were not there
        import study.cli, study.networks.conversion
        from study.networks.checkpoint import load_model
        from study.networks.unet import build_unet
        build_unet("p4m", width=4, depth=1)
        for ask in (lambda: build_unet("p4", width=4, implementation="escnn"), lambda: load_model(sys.argv[1])):
            try:
                ask()
            except ValueError as error:
                print(error)
    """
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "e.pt"], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "escnn cannot be imported" in line
        assert "without a Fortran compiler" in line
        assert "pip install --no-deps escnn" in line


def test_a_network_on_escnn_can_be_copied_in_either_mode():
    network = build("p4", "escnn")
    x = images(network)
    for mode in (True, False):
        network.train(mode)
        assert torch.equal(copy.deepcopy(network)(x), network(x))
