"""What users of escnn trip over: the same probes on a layer of escnn and on ours.

Every probe builds a convolution between feature maps on P4, does what the author of an issue did, and reports the
outcome.
"""

import contextlib
import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from study.equivariance import equivariance_errors
from study.gconv import GroupBatchNorm2d, GroupConv2d
from study.groups import P4


@dataclass(frozen=True)
class Outcome:
    """The outcome of a probe, and whether it is as a torch user expects."""

    fine: bool
    text: str


class Native:
    """Our layers: a convolution of feature maps ``(B, fields, 4, H, W)``, and a batch norm of two fields."""

    def conv(self, fields: int = 2, kernel_size: int = 3, padding_mode: str = "zeros") -> nn.Module:
        padding = kernel_size // 2
        return GroupConv2d(fields, fields, kernel_size, group=P4, padding=padding, padding_mode=padding_mode)

    def norm(self) -> nn.Module:
        return GroupBatchNorm2d(2)


class EscnnConv(nn.Module):
    """escnn's ``R2Conv`` as it is; only its tensors are wrapped and unwrapped."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, f: Tensor) -> Tensor:
        return self.conv(self.conv.in_type(f.flatten(1, 2))).tensor.view_as(f)

    def export(self) -> nn.Module:
        return self.conv.export()


class Escnn:
    """The same layers of escnn, by its own constructors.

    Raises:
        StudyError: if escnn is not installed.
    """

    def __init__(self) -> None:
        from study.escnn import layers as escnn_layers

        self._layers = escnn_layers

    def conv(self, fields: int = 2, kernel_size: int = 3, padding_mode: str = "zeros") -> nn.Module:
        kind = self._layers.feature_type(P4, fields)
        padding = kernel_size // 2
        return EscnnConv(self._layers.enn.R2Conv(kind, kind, kernel_size, padding=padding, padding_mode=padding_mode))

    def norm(self) -> nn.Module:
        return self._layers.GroupBatchNorm2d(2, group=P4)


def one_state_dict(of: Native | Escnn) -> Outcome:
    layer = of.conv().train()
    in_training = set(layer.state_dict())
    more = set(layer.eval().state_dict()) ^ in_training
    return Outcome(not more, f"eval mode adds {', '.join(sorted(more))}" if more else "the same keys in both modes")


def edited_weights(of: Native | Escnn) -> Outcome:
    layer, f = of.conv().eval(), _sample()
    before = layer(f)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(1)
    used = not torch.equal(layer(f), before)
    return Outcome(used, "used" if used else "silently ignored")


def deep_copy(of: Native | Escnn) -> Outcome:
    return _try(lambda: copy.deepcopy(of.conv().eval()))


def pickled(of: Native | Escnn) -> Outcome:
    return _try(lambda: pickle.dumps(of.conv().eval()))


def second_backward(of: Native | Escnn) -> Outcome:
    layer = of.conv().eval()
    return _try(lambda: [layer(_sample()).sum().backward() for _ in range(2)])


def compiled(of: Native | Escnn) -> Outcome:
    torch.compiler.reset()  # the number of compiled variants is limited
    block = nn.Sequential(of.conv(), of.norm(), nn.ReLU())
    return _try(lambda: torch.compile(block, fullgraph=True, backend="aot_eager")(_sample()))


def autocast(of: Native | Escnn) -> Outcome:
    def run() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert of.conv()(_sample()).dtype == torch.bfloat16

    return _try(run)


def exported(of: Native | Escnn) -> Outcome:
    layer, f = of.conv(padding_mode="circular"), _sample()
    expected = layer(f)
    error = (layer.export()(f.flatten(1, 2)).view_as(f) - expected).abs().max() / expected.abs().max()
    return Outcome(bool(error < 1e-5), "the same output" if error < 1e-5 else "zero padding instead of circular")


def cast_alone(of: Native | Escnn) -> Outcome:
    one, other = of.conv(), of.conv()
    one.double()
    try:
        return _try(lambda: other(_sample()))
    finally:
        one.float()  # otherwise every later layer of the process would stay in float64


def built_in_float64(of: Native | Escnn) -> Outcome:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _try(lambda: of.conv(kernel_size=5)(_sample(torch.float64)))  # a basis that is not cached yet
    finally:
        torch.set_default_dtype(default)


def equivariant(of: Native | Escnn) -> Outcome:
    layer = of.conv().double()
    error = float(equivariance_errors(layer, _sample(torch.float64), P4).max())
    layer.float()
    return Outcome(error < 1e-14, f"error {error:.0e}")


def even_kernel(of: Native | Escnn) -> Outcome:
    with contextlib.redirect_stdout(None):  # escnn prints a warning before it raises
        return _try(lambda: of.conv(kernel_size=2))


def every_filter(of: Native | Escnn) -> Outcome:
    dimensions = sum(p.numel() for p in of.conv(fields=1).parameters()) - 1  # without the bias
    return Outcome(dimensions == 36, f"{dimensions} of 36 dimensions")


def checkpoint_size(of: Native | Escnn) -> Outcome:
    layer = of.conv(fields=16).eval()
    torch.save(layer.state_dict(), buffer := io.BytesIO())
    ratio = len(buffer.getbuffer()) / sum(4 * p.numel() for p in layer.parameters())
    return Outcome(ratio < 1.5, f"{ratio:.1f} times the weights")


PROBES = {
    "State dict in train and eval mode (e2cnn 2, 5; escnn 1)": one_state_dict,
    "Weights edited in eval mode": edited_weights,
    "deepcopy in eval mode": deep_copy,
    "pickle": pickled,
    "Two backward passes in eval mode": second_backward,
    "torch.compile(fullgraph=True) with batch norm": compiled,
    "bfloat16 autocast": autocast,
    "export() with circular padding": exported,
    "double() on one of two layers": cast_alone,
    "Built with float64 as the default": built_in_float64,
    "Equivariance in float64": equivariant,
    "2x2 filters (e2cnn 18, escnn 39)": even_kernel,
    "Equivariant 3x3 filters that it can learn": every_filter,
    "Checkpoint of a layer of 16 fields (e2cnn 16)": checkpoint_size,
}


def measure() -> pd.DataFrame:
    """One row per probe: ``probe``, ``native``, ``native_fine``, ``escnn``, ``escnn_fine``.

    Raises:
        StudyError: if escnn is not installed.
    """
    rows = []
    for name, probe in PROBES.items():
        row = {"probe": name}
        for implementation, of in [("native", Native()), ("escnn", Escnn())]:
            torch.manual_seed(0)
            outcome = probe(of)
            row |= {implementation: outcome.text, f"{implementation}_fine": outcome.fine}
        rows.append(row)
    return pd.DataFrame(rows)


def _sample(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 2, P4.order, 6, 6, dtype=dtype)


def _try(action: Callable[[], object]) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except Exception as error:  # the finding is the error that escnn, torch or pickle raises
        return Outcome(False, f"raises {type(error).__name__}")
    return Outcome(True, "works")
