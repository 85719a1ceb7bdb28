"""A network as Python that anybody can read and run: the layers of ``torch.nn`` that it is made of, and their order."""

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

_LAYERS = {torch.ops.aten.conv2d.default: nn.Conv2d, torch.ops.aten.conv_transpose2d.input: nn.ConvTranspose2d}
"""The operations that become layers; their last arguments are those of the layer after its kernel size."""


def to_python(program: ExportedProgram, about: str) -> tuple[str, dict[str, Tensor]]:
    """The source of a module with one class, ``Network``, that needs torch alone, and the state dict of the class.

    Convolutions are layers, all else is written as torch's functions. Sizes are not checked beyond what these do.

    Args:
        program: of one input and one output, for inference.
        about: the docstring of the class.
    """
    constants = program.graph_signature.inputs_to_parameters | program.graph_signature.inputs_to_buffers
    tensors = program.state_dict | program.constants  # a buffer that is not persistent is a constant
    layers, weights, calls = {}, {}, []
    (image,) = (node.name for node in program.graph.nodes if node.op == "placeholder" and node.name not in constants)
    for node in program.graph.nodes:
        if node.target in _LAYERS:
            f, weight, bias, *settings = node.args + (None,) * (3 - len(node.args))
            key = constants[weight.name].removesuffix(".weight")
            name = key.replace(".", "_")
            layers[name] = _layer(node, tensors[f"{key}.weight"], bias is not None, settings)
            weights[f"{name}.weight"] = tensors[f"{key}.weight"]
            if bias is not None:
                weights[f"{name}.bias"] = tensors[constants[bias.name]]
            calls.append(f"{node.name} = self.{name}({f.name})")
        elif node.op == "call_function" and node.users:  # what nothing uses are checks of the input
            calls.append(f"{node.name} = {_function(node.target)}({_arguments(node)})")
        elif node.op == "output":
            calls.append(f"return {node.args[0][0].name}")
    for node in program.graph.nodes:  # weights of what is no convolution
        if node.name in constants and any(user.target not in _LAYERS for user in node.users):
            weights[node.name] = tensors[constants[node.name]]
            layers[node.name] = f"nn.Parameter(torch.empty({tuple(weights[node.name].shape)}), requires_grad=False)"
            calls.insert(0, f"{node.name} = self.{node.name}")
    source = _SOURCE.format(
        about=about,
        layers="\n".join(f"        self.{name} = {layer}" for name, layer in layers.items()),
        image=image,
        calls="\n".join(f"        {call}" for call in calls),
    )
    return source, {name: tensor.detach().contiguous() for name, tensor in weights.items()}


_SOURCE = '''\
# Written by `python -m study export`; it needs torch alone.
import torch
from torch import nn


class Network(nn.Module):
    """{about}"""

    def __init__(self):
        super().__init__()
{layers}

    def forward(self, {image}):
{calls}
'''


def _layer(node: Node, weight: Tensor, bias: bool, settings: list) -> str:
    kind = _LAYERS[node.target]
    channels = weight.shape[:2] if kind is nn.ConvTranspose2d else weight.shape[1::-1]  # in, out
    with torch.device("meta"):  # its weights are not needed, nor drawn
        return f"nn.{kind(*channels, tuple(weight.shape[2:]), *map(tuple, settings), bias=bias)!r}"


def _function(operation: torch._ops.OpOverload) -> str:
    """The shortest name of an operation of aten."""
    name = operation.overloadpacket.__name__
    return f"torch.{name}" if hasattr(torch, name) else f"torch.ops.aten.{name}"


def _arguments(node: Node) -> str:
    return ", ".join([*map(repr, node.args), *(f"{name}={value!r}" for name, value in node.kwargs.items())])
