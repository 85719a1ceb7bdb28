"""The tasks by name. A new one is a line here, or none at all: a patch store may name classes of its own."""

from collections.abc import Sequence

from study.tasks.task import Task

TASKS = {
    task.name: task
    for task in (
        Task("tumour", ("background", "tumour")),
        Task("cancer", ("background", "cancer")),
        Task("glands", ("background", "gland")),
        Task("grades", ("background", "benign gland", "cancer")),
        Task("nuclei", ("background", "nucleus")),
    )
}
"""By the name that data sets, presets and checkpoints use."""

FOREGROUND = Task("foreground", ("background", "foreground"))
"""Two classes, whatever they are called."""

UNNAMED = "tumour"
"""Of a preset that names no task: the slides of Camelyon16, drawn or not."""


def find_task(name: str, classes: Sequence[str] | None = None) -> Task:
    """The task of a preset on a patch store.

    Args:
        name: a key of :data:`TASKS`, or empty.
        classes: that the store names itself; they are right where the two differ, for the masks are the store's.
    """
    known = TASKS.get(name or UNNAMED, FOREGROUND)
    if classes is None or tuple(classes) == known.classes:
        return known
    same = (task for task in TASKS.values() if task.classes == tuple(classes))
    return next(same, Task("own", tuple(classes)))


def task_of_checkpoint(checkpoint: dict) -> Task | None:
    """The task that a network was trained for; None if its checkpoint, an older one, does not tell.

    Args:
        checkpoint: the content; those from before checkpoints knew their task may have the preset's in their settings.
    """
    if about := checkpoint.get("task"):
        known = TASKS.get(about["name"])
        classes = tuple(about["classes"])
        return known if known is not None and known.classes == classes else Task(about["name"], classes)
    if (channels := checkpoint["architecture"].get("num_classes", 1)) > 1:  # somebody's own, saved without its task
        return Task("own", ("background", *(f"class {label}" for label in range(1, channels))))
    if checkpoint.get("data", {}).get("source") == "EBHI-SEG":  # from before it had two tasks
        return TASKS["glands"]
    return TASKS.get(checkpoint.get("settings", {}).get("task", ""))
