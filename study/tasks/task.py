"""A task: which classes are told apart, and all that follows from it for training, evaluation and prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from study.errors import StudyError
from study.tasks import activation
from study.tasks.labels import IGNORE
from study.tasks.losses import DEFAULT_LOSS, LOSSES, Loss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """The classes of a segmentation, with loss, activation and decision rule.

    Attributes:
        name: for records and checkpoints.
        classes: the names of the label values 0, 1, ...; the first is the background, of which no measure is taken.
        loss: what the training makes small.
        threshold: of two classes: the foreground has a larger probability.

    Raises:
        StudyError: for fewer than two classes or more than a mask can hold, or two of one name.
    """

    name: str
    classes: tuple[str, ...]
    loss: Loss = LOSSES[DEFAULT_LOSS]
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= IGNORE:
            raise StudyError(f"{len(self.classes)} classes; name the background and 1 to {IGNORE - 1} others")
        slugs = [slug(name) for name in self.classes]
        if len(set(slugs)) < len(slugs) or not all(slugs):
            raise StudyError(f"classes {', '.join(map(repr, self.classes))}; give each a name of its own")

    @property
    def outputs(self) -> int:
        """Channels of the network: one for two classes, else one for each."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    @property
    def channels(self) -> tuple[str, ...]:
        """The class of each channel."""
        return self.classes[-self.outputs :]

    @property
    def foreground(self) -> dict[int, str]:
        """The names of all classes but the background, by their label values."""
        return dict(enumerate(self.classes[1:], start=1))

    @property
    def rule(self) -> str:
        """How a pixel is decided to be of a class, for people."""
        return f"above {self.threshold:g}" if self.outputs == 1 else "of the largest probability"

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, M, H, W)`` of logits of this shape; M is :attr:`outputs`."""
        return activation.probabilities(logits)

    def decide(self, probabilities: Tensor) -> Tensor:
        """Label values, uint8 ``(B, 1, H, W)``, of probabilities ``(B, M, H, W)``."""
        return activation.decide(probabilities, self.threshold)

    def foreground_of(self, probabilities: Tensor) -> Tensor:
        """The probabilities of all classes but the background, ``(B, K, H, W)`` of ``(B, M, H, W)``."""
        return probabilities[:, -len(self.foreground) :]

    def with_threshold(self, threshold: float) -> Task:
        """The same task, decided otherwise.

        Raises:
            StudyError: if it has more than two classes.
        """
        if self.outputs > 1:
            given = f"a threshold of {threshold:g}"
            raise StudyError(f"{given} decides between two classes, not {len(self.classes)}; leave it out")
        return replace(self, threshold=threshold)

    def about(self) -> dict:
        """What a checkpoint remembers of it."""
        return {"name": self.name, "classes": list(self.classes)}


def slug(name: str) -> str:
    """The name of a class as part of a file's: "gland, benign" is "gland-benign"."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def check_classes(task: Task, classes: Sequence[str] | None, where: object) -> None:
    """Refuse patches whose label values are not those of the task; None is a store that does not name its own.

    Raises:
        StudyError: naming ``where`` the patches are.
    """
    found = 2 if classes is None else len(classes)
    if found != len(task.classes):
        raise StudyError(
            f"{where} has masks of {found} classes, the network tells {len(task.classes)} apart "
            f"({', '.join(task.classes)}); give patches with these"
        )
