"""The Fourier form of the group convolution: the same function as the equations and the dense form, in every detail."""

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from equations import assert_obeys_its_equation, random_input, relative_error
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from study.equivariance import assert_equivariant
from study.gconv import GroupConv2d, GroupConvTranspose2d
from study.gconv.fast import compiler, filter_transform, fourier, operators, rules
from study.groups import P4, P4M, Z2

GROUPS = pytest.mark.parametrize("group", [P4, P4M], ids=lambda group: group.name)
CONVOLUTION = pytest.mark.parametrize("kind", [GroupConv2d, GroupConvTranspose2d], ids=lambda kind: kind.__name__)
GATHERING = [(1, 0), (2, 0), (3, 0), (3, 1), (3, 4), (4, 1), (5, 2), (7, 3)]
SPREADING = [(2, 2, 0), (3, 2, 1), (4, 2, 1), (3, 1, 0), (3, 1, 2), (5, 3, 1)]
CASES = [(GroupConv2d, {"kernel_size": k, "padding": p}) for k, p in GATHERING] + [
    (GroupConvTranspose2d, {"kernel_size": k, "stride": s, "padding": p}) for k, s, p in SPREADING
]
CASE = pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)


@pytest.fixture(params=["cpp", "torch"])
def backend(request, monkeypatch):
    """Both forms of the transforms: in C++, and in plain PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(compiler, "load", lambda: None)
    elif compiler.load() is None:
        pytest.skip("there is no C++ compiler")
    return request.param


def both(kind, in_channels, out_channels, *, dtype=torch.float64, **arguments):
    """A layer that computes by Fourier, and its twin that computes densely."""
    layer = kind(in_channels, out_channels, algorithm="fourier", **arguments).to(dtype)
    dense = kind(in_channels, out_channels, algorithm="dense", **arguments).to(dtype)
    dense.load_state_dict(layer.state_dict())
    return layer, dense


def assert_agree(layer, dense, f, tolerance):
    """In the output and in all gradients."""
    ours, theirs = layer(f), dense(f)
    assert relative_error(ours, theirs) <= tolerance
    e = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, [f, *layer.parameters()], e)
    expected = torch.autograd.grad(theirs, [f, *dense.parameters()], e)
    for gradient, of_dense in zip(gradients, expected, strict=True):
        assert relative_error(gradient, of_dense) <= tolerance


@GROUPS
@pytest.mark.parametrize("kernel_size", range(1, 6))
@pytest.mark.parametrize(("padding", "bias"), [(0, True), (2, False)], ids=str)
def test_it_obeys_equation_2(backend, group, kernel_size, padding, bias):
    layer = GroupConv2d(2, 3, kernel_size, group=group, padding=padding, bias=bias, algorithm="fourier")
    assert_obeys_its_equation(layer, (8, 7))


@GROUPS
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (4, 2, 1), (3, 1, 1), (4, 3, 0)])
def test_it_obeys_equation_2_transposed(backend, group, kernel_size, stride, padding):
    arguments = {"group": group, "stride": stride, "padding": padding, "algorithm": "fourier"}
    assert_obeys_its_equation(GroupConvTranspose2d(2, 3, kernel_size, **arguments), (3, 4))


@GROUPS
@CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_it_is_the_dense_form(backend, group, kind, arguments, dtype, tolerance):
    layer, dense = both(kind, 3, 5, group=group, dtype=dtype, **arguments)
    assert_agree(layer, dense, random_input(layer, (7, 20), dtype=dtype).requires_grad_(), tolerance)


@CASE
@pytest.mark.parametrize("positions", [1, 9, 50, 200], ids="{} positions".format)
def test_it_does_not_depend_on_the_size_of_the_blocks(backend, kind, arguments, positions, monkeypatch):
    layer, dense = both(kind, 2, 3, group=P4M, **arguments)
    f = random_input(layer, (9, 7), batch=3).requires_grad_()
    monkeypatch.setitem(fourier.BLOCK_BYTES, "cpu", 8 * 8 * 9 * 3 * positions)
    assert_agree(layer, dense, f, 1e-12)


@GROUPS
@CONVOLUTION
def test_gradients_are_those_of_finite_differences(group, kind):
    layer = kind(2, 3, 3, group=group, padding=1, algorithm="fourier").double()
    f = random_input(layer, (3, 2), batch=1).requires_grad_()

    def run(f, weight, bias):
        return functional_call(layer, {"weight": weight, "bias": bias}, (f,))

    inputs = (f, layer.weight, layer.bias)
    assert gradcheck(run, inputs, check_forward_ad=True)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, fast_mode=True)


@CONVOLUTION
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_gradients_are_those_of_finite_differences(kind):
    layer = kind(2, 1, 2, group=P4, algorithm="fourier", bias=False).to(torch.complex128)
    f = random_input(layer, (3, 2), batch=1, dtype=torch.complex128).requires_grad_()

    def run(f, weight):
        return functional_call(layer, {"weight": weight}, (f,))

    assert gradcheck(run, (f, layer.weight), check_forward_ad=True)
    assert gradgradcheck(run, (f, layer.weight), check_fwd_over_rev=True, fast_mode=True)


@GROUPS
@CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex128, 1e-12), (torch.complex64, 1e-5)], ids=str)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_numbers_are_treated_as_by_the_dense_form(group, kind, arguments, dtype, tolerance):
    layer, dense = both(kind, 3, 2, group=group, dtype=dtype, **arguments)
    assert_agree(layer, dense, random_input(layer, (7, 5), dtype=dtype).requires_grad_(), tolerance)


# torch.func: each takes a function of the weight and the input, a weight and inputs


def per_sample_gradients(run, psi, f):
    return vmap(grad(lambda psi, f: run(psi, f[None]).square().sum()), (None, 0))(psi, f)


def several_weights(run, psi, f):
    return vmap(run, (0, None))(torch.stack([psi, psi**2]), f)


def gradients_of_several_weights(run, psi, f):
    return vmap(grad(lambda psi, f: run(psi, f).square().sum(), argnums=(0, 1)), (0, None))(
        torch.stack([psi, psi**2]), f
    )


TRANSFORMS = {
    "grad": lambda run, psi, f: grad(lambda psi, f: run(psi, f).square().sum(), argnums=(0, 1))(psi, f),
    "vjp": lambda run, psi, f: vjp(run, psi, f)[1](run(psi, f).cos()),
    "jacrev by the weight": lambda run, psi, f: jacrev(run)(psi, f),
    "jacrev by the input": lambda run, psi, f: jacrev(run, argnums=1)(psi, f),
    "jvp": lambda run, psi, f: jvp(run, (psi, f), (psi.cos(), f.sin())),
    "jvp by the input": lambda run, psi, f: jvp(lambda f: run(psi, f), (f,), (f.sin(),)),
    "jacfwd": lambda run, psi, f: jacfwd(run, argnums=(0, 1))(psi, f),
    "vmap": lambda run, psi, f: vmap(run, (None, 3), out_dims=2)(psi, torch.stack([f, f.cos()], dim=3)),
    "nested vmap": lambda run, psi, f: vmap(vmap(run, (None, 0)), (0, None))(
        torch.stack([psi, psi**2]), torch.stack([f, f.cos(), f.sin()])
    ),
    "vmap by both": lambda run, psi, f: vmap(run)(torch.stack([psi, psi**2]), torch.stack([f, f.cos()])),
    "several weights": several_weights,
    "gradients of several weights": gradients_of_several_weights,
    "per-sample gradients": per_sample_gradients,
    "hessian": lambda run, psi, f: hessian(lambda s: run(psi * s, f * s.sin()).square().sum())(psi.mean((0, 1, 2, 3))),
    "reverse over reverse": lambda run, psi, f: jacrev(jacrev(lambda s: run(psi * s, f * s.sin()).pow(3).sum()))(
        psi.mean((0, 1, 2, 3))
    ),
    "third derivative": lambda run, psi, f: grad(grad(grad(lambda s: run(psi * s, f * s.sin()).pow(3).sum())))(
        psi.mean()
    ),
}
TRANSFORM = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


def as_functions(*layers):
    """Of the weight and the input."""
    return [lambda psi, f, layer=layer: functional_call(layer, {"weight": psi}, (f,)) for layer in layers]


@CONVOLUTION
@TRANSFORM
def test_torch_func_transforms_it_as_it_does_the_dense_form(kind, transform, capfd):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4M, padding=1)
    psi, f = layer.weight.detach(), random_input(layer, (4, 3))
    ours, theirs = (transform(run, psi, f) for run in as_functions(layer, dense))
    for actual, expected in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert relative_error(actual, expected) <= 1e-12
    assert "performance drop" not in capfd.readouterr().err  # as torch warns where it has no rule for vmap


@GROUPS
@CONVOLUTION
@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_a_gradient_that_is_not_wanted_is_not_given(group, kind, frozen):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=group, bias=False)
    f = random_input(layer).requires_grad_(frozen != "input")
    layer.weight.requires_grad_(frozen != "weight")
    layer(f).square().sum().backward()
    g = f.detach().clone().requires_grad_()
    dense(g).square().sum().backward()
    if frozen == "input":
        assert f.grad is None
        assert relative_error(layer.weight.grad, dense.weight.grad) <= 1e-12
    else:
        assert layer.weight.grad is None
        assert relative_error(f.grad, g.grad) <= 1e-12


@GROUPS
@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_other_paddings_are_those_of_the_dense_form(group, padding_mode):
    layer, dense = both(GroupConv2d, 2, 3, kernel_size=3, padding=1, group=group, padding_mode=padding_mode)
    assert_agree(layer, dense, random_input(layer).requires_grad_(), 1e-12)


@GROUPS
@CASE
def test_it_is_equivariant(backend, group, kind, arguments):
    layer = kind(2, 3, group=group, algorithm="fourier", **arguments).double()
    assert_equivariant(layer, random_input(layer, (8, 6)), group, tolerance=1e-12)


@pytest.mark.parametrize(("group", "stride"), [(P4M, 2), (P4, 3), (Z2, 1)], ids=str)
def test_without_a_fourier_form_the_dense_one_is_taken(group, stride):
    layer, dense = both(GroupConv2d, 2, 3, kernel_size=3, group=group, stride=stride)
    f = random_input(layer, (7, 7))
    assert torch.equal(layer(f), dense(f))


@CONVOLUTION
def test_strided_and_empty_inputs(backend, kind):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4M)
    f = random_input(layer, (6, 5)).transpose(-1, -2).requires_grad_()
    assert_agree(layer, dense, f, 1e-12)
    assert layer(f[:0]).shape == dense(f[:0]).shape
    layer(f[:0]).sum().backward()
    assert not layer.weight.grad.any()


@CONVOLUTION
@pytest.mark.parametrize("size", [(0, 5), (5, 0)], ids=str)
def test_an_input_without_pixels_is_treated_as_by_the_dense_form(kind, size):
    layer, dense = both(kind, 2, 3, kernel_size=3, padding=1, group=P4M)
    f = random_input(layer, size)
    try:
        expected = dense(f).shape
    except RuntimeError:
        with pytest.raises(RuntimeError):
            layer(f)
    else:
        assert layer(f).shape == expected


def test_a_training_may_follow_an_inference(backend):
    layer, dense = both(GroupConv2d, 2, 3, kernel_size=3, group=P4M)
    fourier.release_workspace()
    f = random_input(layer)
    with torch.inference_mode():
        layer(f)
    assert_agree(layer, dense, f.requires_grad_(), 1e-12)


@CONVOLUTION
def test_tables_stay_on_the_cpu_whatever_the_default_device(kind):
    filter_transform._make.cache_clear()
    fourier._in_place.cache_clear()
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4M)
    f = random_input(layer)
    with torch.device("meta"):
        out = layer(f)
    assert relative_error(out, dense(f)) <= 1e-12


@CONVOLUTION
def test_two_dtypes_are_refused_as_by_the_dense_form(kind):
    for layer in both(kind, 2, 3, kernel_size=3, group=P4M):
        with pytest.raises(RuntimeError):
            layer(random_input(layer, dtype=torch.float32))


@CONVOLUTION
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
@pytest.mark.filterwarnings("ignore:Complex modules")
def test_autocast_leaves_double_precision_and_complex_numbers_alone(kind, dtype):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4M, dtype=dtype)
    f = random_input(layer, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(f).dtype == dense(f).dtype == dtype


@CONVOLUTION
def test_shapes_are_known_without_data(kind):
    layer = kind(2, 3, 3, group=P4M, algorithm="fourier").to("meta")
    f = torch.empty(1, 2, 8, 5, 4, device="meta")
    layer.algorithm = "dense"
    expected = layer(f).shape
    layer.algorithm = "fourier"
    assert layer(f).shape == expected


@CONVOLUTION
def test_an_input_smaller_than_the_filter_is_refused_as_by_the_dense_form(kind):
    layer, dense = both(kind, 2, 3, kernel_size=3, padding=2 if kind is GroupConvTranspose2d else 0, group=P4M)
    f = random_input(layer, (1, 2))
    for module in (layer, dense):
        with pytest.raises(RuntimeError):
            module(f)


@CONVOLUTION
def test_two_threads_may_compute_at_once(backend, kind):
    """The memory that is kept between calls is each thread's own."""
    layer, dense = both(kind, 4, 4, kernel_size=3, group=P4M)
    inputs = [random_input(layer, (16, 16)) for _ in range(8)]
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(torch.no_grad()(layer), inputs))
        for f, out in zip(inputs, outputs, strict=True):
            assert relative_error(out, dense(f)) <= 1e-12


@CONVOLUTION
@pytest.mark.parametrize("mode", ["autocast", "bfloat16", "float16"])
def test_half_precision_stays_near_float32(kind, mode):
    layer, dense = both(kind, 4, 4, kernel_size=3, group=P4M, dtype=torch.float32)
    f = random_input(layer, dtype=torch.float32)
    expected = dense(f)
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(f)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        assert layer.weight.grad.dtype == torch.float32
    else:
        dtype = getattr(torch, mode)
        out = layer.to(dtype)(f.to(dtype))
    assert relative_error(out.float(), expected) < 0.03


@CONVOLUTION
@pytest.mark.parametrize("transform", ["vjp", "jvp", "vmap", "per-sample gradients"])
def test_torch_func_may_be_compiled(kind, transform):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4, padding=1)
    psi, f = layer.weight.detach(), random_input(layer, (4, 3))
    ours, theirs = as_functions(layer, dense)
    transform = TRANSFORMS[transform]
    actual = torch.compile(lambda psi, f: transform(ours, psi, f), fullgraph=True, backend="aot_eager")(psi, f)
    for result, expected in zip(tree_leaves(actual), tree_leaves(transform(theirs, psi, f)), strict=True):
        assert relative_error(result, expected) <= 1e-12


@CONVOLUTION
@pytest.mark.parametrize("frozen", ["input", "weight"])
def test_forward_mode_of_autograd(kind, frozen):
    tangents = []
    for layer in both(kind, 2, 3, kernel_size=3, group=P4M):
        torch.manual_seed(0)
        f = random_input(layer)
        with forward_ad.dual_level():
            if frozen == "input":
                run, psi = as_functions(layer)[0], layer.weight.detach()
                out = run(forward_ad.make_dual(psi, psi.cos()), f)
            else:
                out = layer(forward_ad.make_dual(f, f.cos()))
            tangents.append(forward_ad.unpack_dual(out).tangent)
    assert relative_error(*tangents) <= 1e-12


@CONVOLUTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast_has_no_say_in_the_backward_pass(backend, kind, dtype):
    layer = kind(2, 3, 3, group=P4M, algorithm="fourier", bias=False).to(dtype)
    f = random_input(layer, dtype=dtype).requires_grad_()
    out = layer(f)
    e = torch.randn_like(out).requires_grad_()

    def derivatives():
        first = torch.autograd.grad(out, [f, layer.weight], e, create_graph=True)
        return *first, *torch.autograd.grad(sum(g.sum() for g in first), [e, f, layer.weight])

    expected = derivatives()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for actual, of_outside in zip(derivatives(), expected, strict=True):
            assert torch.equal(actual, of_outside)


@GROUPS
@CONVOLUTION
def test_torch_finds_no_fault_with_the_operators(group, kind):
    layer = kind(2, 2, 3, group=group)
    f = random_input(layer, (4, 3), dtype=torch.float32).requires_grad_()
    settings = (group.name, 1) if kind is GroupConv2d else (group.name, 2, 1)
    operator = operators.group_conv if kind is GroupConv2d else operators.group_conv_transpose
    torch.library.opcheck(operator, (f, layer.weight, *settings))
    backward = operators.group_conv_backward if kind is GroupConv2d else operators.group_conv_transpose_backward
    f = random_input(layer, (3, 4), dtype=torch.float32).transpose(-1, -2)  # of strides unlike the result's
    e = torch.randn_like(operator(f, layer.weight, *settings))
    torch.library.opcheck(backward, (e, f, layer.weight.detach(), *settings, True, True))


@CONVOLUTION
def test_it_compiles_and_exports_without_a_graph_break(kind):
    layer = kind(2, 3, 3, group=P4M, algorithm="fourier")
    f = random_input(layer, dtype=torch.float32)
    assert relative_error(torch.compile(layer, fullgraph=True)(f), layer(f)) <= 1e-6
    assert relative_error(torch.export.export(layer, (f,)).module()(f), layer(f)) <= 1e-6


@CONVOLUTION
def test_the_algorithm_is_no_part_of_the_state_and_may_be_changed(kind):
    layer, dense = both(kind, 2, 3, kernel_size=3, group=P4M)
    assert layer.state_dict().keys() == dense.state_dict().keys() == {"weight", "bias"}
    f = random_input(layer)
    fourier_output = layer(f)
    layer.algorithm = "dense"
    assert torch.equal(layer(f), dense(f))
    assert not torch.equal(layer(f), fourier_output)  # another order of the sums
    assert "algorithm='fourier'" in repr(both(kind, 2, 3, kernel_size=3, group=P4M)[0])


@CONVOLUTION
def test_an_unknown_algorithm_is_refused(kind):
    with pytest.raises(ValueError, match=r"algorithm is 'fast'; give one of auto, dense, fourier"):
        kind(2, 3, 3, group=P4M, algorithm="fast")
    layer = kind(2, 3, 3, group=P4M, algorithm="dense")
    with pytest.raises(ValueError, match=r"algorithm is 'Fourier'; give one of auto, dense, fourier"):
        layer.algorithm = "Fourier"
    assert layer.algorithm == "dense"


@CONVOLUTION
def test_the_algorithm_goes_with_copies_and_a_compiled_layer_follows_it(kind):
    layer = kind(2, 3, 3, group=P4M, algorithm="fourier").double()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.algorithm == "fourier"
        twin.algorithm = "dense"
    assert layer.algorithm == "fourier"
    torch.compiler.reset()  # forget what other tests compiled: there is a limit to it
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    f = random_input(layer)
    outputs = {}
    for algorithm in ("fourier", "dense"):
        layer.algorithm = algorithm
        outputs[algorithm] = layer(f)
        assert torch.equal(compiled(f), outputs[algorithm])
    assert not torch.equal(*outputs.values())  # another order of the sums


@pytest.mark.parametrize(("group", "largest"), [(P4, 65504 / 4), (P4M, 65504 / 8)], ids=str)
def test_in_float16_it_overflows_at_the_order_of_the_group_earlier_than_the_dense_form(group, largest):
    for layer in both(GroupConv2d, 1, 1, kernel_size=1, group=group, dtype=torch.float16, bias=False):
        nn.init.constant_(layer.weight, 1 / group.order)  # the mean over the orientations
        f = torch.ones(1, 1, group.order, 4, 4, dtype=torch.float16)
        assert layer(f * largest).isfinite().all()
        assert layer(f * 1.01 * largest).isfinite().all() == (layer.algorithm == "dense")


def test_it_rounds_relative_to_all_orientations_and_the_dense_form_to_each_output():
    layer, dense = both(GroupConv2d, 1, 1, kernel_size=1, group=P4M, dtype=torch.float32, bias=False)
    for module in (layer, dense):  # the output is the input
        module.weight.data = (torch.arange(8.0) == 0).float().view(1, 1, 8, 1, 1)
    f = 1 + torch.rand(1, 1, 8, 8, 8)
    f[:, :, 3] *= 1000
    assert torch.equal(dense(f), f)
    error = (layer(f) - f).abs().max() / torch.finfo(f.dtype).eps
    assert 10 < error < 2000  # of values of 1 to 2, beside those of 1000 to 2000


@pytest.mark.parametrize(("group", "factor"), [(P4, 16 / 6), (P4M, 64 / 12)], ids=str)
@CONVOLUTION
def test_it_has_fewer_products_by_the_factor_of_the_theory(group, factor, kind):
    arguments = {"kernel_size": 4, "stride": 2, "padding": 1} if kind is GroupConvTranspose2d else {"kernel_size": 3}
    counts = []
    for layer in both(kind, 4, 4, group=group, dtype=torch.float32, **arguments):
        f = random_input(layer, dtype=torch.float32).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            layer(f).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(factor)


# The choice


def test_auto_follows_the_rules(monkeypatch):
    layer = GroupConv2d(16, 64, 3, group=P4M, bias=False)
    f = random_input(layer, dtype=torch.float32)  # 2 images of 5 x 4
    asked = []
    monkeypatch.setattr(rules, "_is_faster", lambda *arguments: asked.append(arguments) or arguments[-1])
    taken = []
    monkeypatch.setattr(operators, "convolve", lambda f, psi, *_: taken.append(True) or f.new_empty(2, 64, 8, 3, 2))
    with torch.no_grad():
        layer(f)
    assert not taken
    layer(f)
    assert taken
    key = ("cpu", rules.fourier.backend("cpu", torch.float32, P4M), "float32", "p4m", "GroupConv2d")
    assert asked == [(key, 16, 64, 40, False), (key, 16, 64, 40, True)]
    assert not rules.fourier_is_faster(GroupConv2d(16, 64, 1, group=P4M), "cpu", torch.float32)  # not what was measured


def test_without_a_rule_it_is_dense():
    assert not rules.fourier_is_faster(GroupConv2d(64, 64, 3, group=P4M), "cpu", torch.bfloat16)


def test_a_network_computes_the_same_by_either():
    up = GroupConvTranspose2d(32, 16, 4, stride=2, padding=1, group=P4M)
    network = nn.Sequential(GroupConv2d(32, 32, 3, padding=1, group=P4M), nn.ReLU(), up)
    f = torch.randn(2, 32, 8, 9, 9)
    outputs = []
    for algorithm in ("fourier", "dense"):
        for layer in network[::2]:
            layer.algorithm = algorithm
        outputs.append(network(f))
    assert relative_error(*outputs) <= 1e-5


# The compiler


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache of compiled libraries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.load.cache_clear()
    yield tmp_path
    compiler.load.cache_clear()


def test_the_library_is_compiled_once(fresh, monkeypatch):
    if compiler.load() is None:
        pytest.skip("there is no C++ compiler")
    (library,) = fresh.rglob("*.so")
    compiler.load.cache_clear()
    monkeypatch.setattr(compiler.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert compiler.load() is not None
    assert {path.suffix for path in library.parent.iterdir()} == {".so", ".sha256"}


@pytest.mark.parametrize("broken", ["missing", "failing"])
def test_without_a_compiler_it_warns_once_and_computes_in_plain_pytorch(fresh, broken, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++" if broken == "missing" else "false")
    layer, dense = both(GroupConv2d, 2, 3, kernel_size=3, group=P4M)
    f = random_input(layer)
    with pytest.warns(RuntimeWarning, match=r"could not be compiled .* install g\+\+"):
        out = layer(f)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(layer(f), out)
    assert relative_error(out, dense(f)) <= 1e-12
    assert not list(fresh.rglob("*.so"))
