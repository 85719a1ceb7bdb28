"""The doctor on networks that anybody can install: what breaks each under roto-reflections, and on which size.

    pip install torchvision timm segmentation-models-pytorch escnn
    python tests/soak/diagnose_public_networks.py > docs/diagnoses.md

Weights are random, so that nothing is downloaded: what is found is the architecture's.
"""

import importlib.metadata
import logging
import sys

import torch
from torch import nn

from study.equivariance import Diagnosis, diagnose


def torchvision_network(name: str):
    import torchvision

    if name.startswith("deeplab"):
        return torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2)
    return torchvision.models.get_model(name, weights=None)


def timm_network(name: str):
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10)


def smp_network(name: str):
    import segmentation_models_pytorch as smp

    return smp.Unet(name, encoder_weights=None, classes=1)


def escnn_network(name: str):
    """As in escnn's examples: regular fields of D4, max pooling with the paper's 3 x 3 kernel, a group pooling."""
    from escnn import gspaces
    from escnn import nn as enn

    act = gspaces.flipRot2dOnR2(4)
    rgb, fields = enn.FieldType(act, 3 * [act.trivial_repr]), enn.FieldType(act, 8 * [act.regular_repr])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = enn.R2Conv(rgb, fields, 3, padding=1)
            self.norm = enn.InnerBatchNorm(fields)
            self.relu = enn.ReLU(fields)
            self.pool = enn.PointwiseMaxPool2D(fields, kernel_size=3, stride=2, padding=1)
            self.second = enn.R2Conv(fields, fields, 3, padding=1)
            self.group_pool = enn.GroupPooling(fields)
            self.last = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            x = self.relu(self.norm(self.first(enn.GeometricTensor(x, rgb))))
            return self.last(self.group_pool(self.second(self.pool(x))).tensor)

    return Network()


NETWORKS = [
    ("torchvision", torchvision_network, "resnet50", 224),
    ("torchvision", torchvision_network, "deeplabv3_resnet50", 224),
    ("segmentation-models-pytorch", smp_network, "resnet34", 224),
    ("timm", timm_network, "convnext_tiny", 224),
    ("timm", timm_network, "tf_efficientnet_b0", 224),
    ("timm", timm_network, "vit_small_patch16_224", 224),
    ("escnn", escnn_network, "D4, regular fields", 64),
    ("escnn", escnn_network, "D4, regular fields", 65),
]

COLUMNS = (
    "Network",
    "Side",
    "Largest error",
    "Breaks first at",
    "No weights can mend",
    "Sides that fit",
    "Filters without symmetry",
)


def row(package: str, make, name: str, size: int) -> tuple[str, Diagnosis]:
    torch.manual_seed(0)
    dtype = torch.float32 if package == "escnn" else torch.float64  # escnn computes its filters in float32
    network = make(name).to(dtype).eval()
    found = diagnose(network, torch.randn(1, 3, size, size, dtype=dtype))
    what = f"{package} {importlib.metadata.version(package)}: {name}"
    first = f"`{found.first.name}` ({found.first.kind}): {found.first.why}" if found.first else "–"
    geometry = ", ".join(f"`{layer.name}` on {layer.size}" for layer in found.geometry[:6]) or "–"
    geometry += f" and {len(found.geometry) - 6} more" if len(found.geometry) > 6 else ""
    sizes = " or ".join(map(str, found.sizes)) or "–"
    broken, all_of_them = found.unsymmetric
    return (
        f"| {what} | {size} | {found.errors.max():.0e} | {first} | {geometry} | {sizes} | {broken} of {all_of_them} |",
        found,
    )


def main() -> None:
    logging.disable(logging.WARNING)
    print("# Equivariance diagnosis of public networks\n")
    print("`study.equivariance.diagnose(network, image)` examines any network, and so does\n")
    print("    python -m study check module:function --size 224\n")
    print("where `function` returns the network. The report says at which layer the network stops being")
    print("equivariant, why, and what helps.\n")
    print("Made by `tests/soak/diagnose_public_networks.py`; random weights, eval mode, float64 (escnn: float32).\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    details = []
    for entry in NETWORKS:
        line, found = row(*entry)
        print(line, flush=True)
        details.append(f"\n## {entry[0]}: {entry[2]} on {entry[3]} x {entry[3]}\n\n```\n{found}\n```")
    print(*details, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
