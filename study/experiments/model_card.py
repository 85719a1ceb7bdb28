"""The card of a pretrained network: what it is, what to expect of it, and what not to use it for.

All of it is generated from what the file of weights says of itself, so the two cannot differ.
"""

from collections.abc import Sequence

from study.data.datasets.registry import find_data_set
from study.experiments.records import Trial
from study.networks.models import MODELS
from study.networks.network import Architecture
from study.networks.registry import from_values
from study.tasks.losses import DEFAULT_LOSS


def model_card(name: str, about: dict) -> str:
    """The card in Markdown.

    Args:
        name: of the network.
        about: see :func:`study.networks.pretrained.read_pretrained`; the weights are not needed.
    """
    settings, patches, training = (about[key] for key in ("settings", "patches", "training"))
    data_set = find_data_set(settings["source"])
    card, labels = data_set.card, data_set.labels[settings["task"]]
    trial, expected = Trial(**about["trial"]), about["expected"]
    model, architecture = MODELS[trial.model], from_values(about["architecture"])
    train, validation, test = (_count(about["parts"][part]) for part in ("train", "validation", "test"))
    size, original = (f"{patches[side]} x {patches[side]}" for side in ("size", "original_size"))
    return f"""# {name}

A network that finds {about["classes"][1]} in {card.subject}: {model.label}.
{_symmetry(architecture)}
It has {about["parameters"]:,} parameters: filters in half precision, all else in float32, in which it computes.

## Use it

```python
import torch
import study
from study.data.patches.loading import to_input

network = study.load_pretrained("{name}")  # in eval mode, on the CPU
probability = torch.sigmoid(network(to_input(images)))  # images: uint8 (B, 3, H, W), RGB
```

H and W are multiples of {architecture.sizes}; the tissue is at the scale of the training patches (below).

## What to expect

| On {test} | One view |
| --- | --- |
| Dice, pooled over all pixels | {100 * expected["dice"]:.2f} % |
| Standard deviation of the probability over the eight roto-reflections, mean | {expected["deviation"]:.1e} |
| The same, largest | {expected["deviation_max"]:.1e} |
| Flip rate: pixels whose decision depends on the orientation | {100 * expected["changed"]:.2f} % |

`python -m study evaluate {name}` measures it again.
Half precision moved the Dice by {100 * (expected["dice"] - about["dice_before_rounding"]):+.3f} points.
These are the numbers of one training and one fold of patients; the study `{about["study"]}` tells how they vary.

## Data and training

- **Patches**: the {data_set.title} that comes with this package, {_count(patches)}, at {size} pixels.
  The originals have {original}, at a magnification of {patches["magnification"]}.
  Fingerprint {about["data"]["fingerprint"]}.
- **Split** by patient, seed {trial.seed}: training on {train} ({100 * trial.fraction:g} % of those there were),
  validation on {validation}, test on {test}.
  The numbers of the test patients are `study.networks.pretrained.read_pretrained("{name}")["test_cases"]`.
- **Recipe**: {_network(settings)}{_length(settings)};
  Adam at {settings["learning_rate"]:g}, {_schedule(settings)}; {settings.get("loss", DEFAULT_LOSS)} loss;
  {"each patch roto-reflected at random" if model.augmented else "no augmentation"}.
- **Made by** the trial `{trial.name}` of the study `{about["study"]}`: code {training["version"]},
  torch {training["torch"]}, {training["hardware"]}, {training["finished"]}.

## Limits

- **Not for clinical use.** This is an example of research, not a medical device.
{_items(card.limits)}
- **Reduced resolution**: it has seen {size} pixels of a field of view that had {original}.
  The micrometres per pixel were not published, so on slides the fitting scale is to be found by trying.
- {labels.limits}

## Licence

The weights are under the MIT licence, as the code is. The patches that they were trained on are under
{data_set.licence}:
{card.attribution}
Their authors do not endorse this network.
"""


def _items(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _symmetry(architecture: Architecture) -> str:
    kept = architecture.symmetries.sum()
    if kept == 1:
        return "Its answer depends on how a patch is turned."
    which = "all eight" if kept == 8 else f"{kept} of the eight"
    return f"By construction it is equivariant to {which} roto-reflections of the pixel grid."


def _count(part: dict) -> str:
    return f"{part['patches']:,} patches of {part['cases']} patients"


def _network(settings: dict) -> str:
    """The width and the depth, of a network that has them."""
    text = ", ".join(f"{key} {settings[key]}" for key in ("width", "depth") if key in settings)
    return f"{text}; " if text else ""


def _length(settings: dict) -> str:
    return f"{settings['epochs']} epochs of {settings['batches_per_epoch']} batches of {settings['batch_size']}"


def _schedule(settings: dict) -> str:
    return {
        "cosine": "annealed to zero along a cosine, the last weights kept",
        "plateau": f"halved after {settings['patience'] + 1} epochs without a better validation loss, the best kept",
    }[settings["schedule"]]
