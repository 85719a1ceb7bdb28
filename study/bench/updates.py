"""What the networks of a study cost: an update and a prediction of each, in turn on one machine.

Records have seconds too, but trials of one study may run on several machines, and beside other work.
"""

import pandas as pd
import torch

from study.experiments.presets import PRECISIONS, Preset
from study.networks.models import MODELS
from study.networks.steps import inference, training_step
from study.provenance import provenance
from study.report.contrasts import BASELINE
from study.timing import summarise, time_in_turn


def measure(name: str, preset: Preset, *, rounds: int, device: torch.device) -> pd.DataFrame:
    """One row per model of a study of that name; models of one network, augmented or not, have the same times.

    Columns: ``study``, ``model``, ``update_*`` and ``prediction_*`` (of a batch of noise, as of
    :func:`~study.timing.summarise`, with ratios to the augmented U-Net's, or else the first model's), the width, depth,
    patch size and batch size of the study, and the provenance. Evaluation, and so the prediction, is in float32
    whatever the training is in.

    Raises:
        StudyError: if a model is on escnn, which is not installed.
    """
    recipe, models = preset.recipe, preset.all_models
    baseline = MODELS[BASELINE if BASELINE in models else models[0]].network
    images = torch.randn(recipe.batch_size, 3, preset.size, preset.size, device=device)  # (B, 3, H, W)
    built = {}
    for model in models:
        if MODELS[model].network not in built:
            torch.manual_seed(0)
            built[MODELS[model].network] = MODELS[model].architecture(**recipe.network).build().to(device)
    jobs = {
        "update": {key: training_step(built[key], images, PRECISIONS[recipe.precision]) for key in built},
        "prediction": {key: inference(built[key], images, "float32") for key in built},
    }
    rows = pd.DataFrame({"study": name, "model": models})
    for kind, timed in jobs.items():
        for network in built.values():
            network.train(kind == "update")
        found = summarise(time_in_turn(timed, rounds=rounds, device=device, warm_up=3), baseline=baseline)
        of_models = found.loc[[MODELS[model].network for model in models]].reset_index(drop=True)
        rows = rows.join(of_models.add_prefix(f"{kind}_"))
    settings = {key: recipe.network[key] for key in ("width", "depth") if key in recipe.network}
    return rows.assign(**settings, size=preset.size, batch_size=recipe.batch_size, rounds=rounds, **provenance(device))
