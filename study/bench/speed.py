"""The measurements of speed as files, tables and figures: layer by layer, and a whole training step."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from study.bench import layers, plots
from study.bench.report import conditions, device_name, network_sizes, times, write_csv, write_text
from study.errors import StudyError
from study.report import markdown
from study.report.plots import save

SPEED = Path("results/speed")
_NAMES = {"p4": "P4", "p4m": "P4M", "z2": "U-Net"}
_CASE = ["group", "layer", "inputs", "outputs", "grid", "batch"]
_LAYERS = {"GroupConv2d": "3x3", "GroupConvTranspose2d": "4x4, up"}


def read_tables(root: Path, kind: str) -> dict[str, pd.DataFrame]:
    """The committed measurements, "layers" or "training-step", by the names of their files.

    Raises:
        StudyError: if there are none.
    """
    files = sorted((root / SPEED).glob(f"*-{kind}-*.csv"))
    if not files:
        raise StudyError(f"no tables of {kind} in {root / SPEED}; make one with `python -m study bench {kind}`")
    return {file.stem: pd.read_csv(file) for file in files}


def write_layers(root: Path, rows: pd.DataFrame) -> Path:
    """Write ``results/speed/<device>-layers-<backend>-<precision>.csv``, and its table and figure.

    Returns:
        The path of the results.

    Raises:
        StudyError: if a file cannot be written.
    """
    name = f"{device_name(rows)}-layers-{rows.backend.iloc[0]}-{rows.precision.iloc[0]}"
    path = root / SPEED / f"{name}.csv"
    rows = write_csv(path, rows)
    _write_figures(root, name, layers_table(rows), plots.layers(rows, layers_caption(rows)))
    return path


def write_steps(root: Path, rows: pd.DataFrame) -> Path:
    """Write ``results/speed/<device>-training-step-<precision>.csv``, and its table and figure in ``figures/speed/``.

    Returns:
        The path of the results.

    Raises:
        StudyError: if a file cannot be written.
    """
    name = f"{device_name(rows)}-training-step-{rows.precision.iloc[0]}"
    path = root / SPEED / f"{name}.csv"
    rows = write_csv(path, rows)
    figure = plots.steps(rows.assign(label=step_labels(rows)), steps_caption(rows))
    _write_figures(root, name, steps_table(rows), figure)
    return path


def _write_figures(root: Path, name: str, table: str, figure: Figure) -> None:
    folder = root / "figures" / "speed"
    write_text(folder / f"{name}.md", table)
    save(figure, folder / name)


def layers_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    images = f"images of {row['size']} x {row['size']}"
    return f"Layers of U-Nets on {images}, {conditions(row, row.precision)} in which all forms took turns"


def layers_cells(rows: pd.DataFrame) -> list[list[str]]:
    """One line per layer, the head first; the speed-ups over the dense form in the same rounds."""
    forms = [form for form in layers.FORMS[1:] if form in set(rows.form)]
    head = ["Group", "Layer", "Fields", "Input", "Dense, ms"]
    head += [f"{form}{part}" for form in forms for part in (", forward", ", with backward")]
    lines = [[*head, "auto", "Memory, MB", "Of the limit"]]
    for _, case in rows.groupby(_CASE, sort=False):
        case = case.set_index("form")
        dense = case.loc["dense"]
        line = [_NAMES[dense.group], _LAYERS[dense.layer], f"{dense.inputs} to {dense.outputs}", _input(dense)]
        line.append(f"{dense.forward_ms:.3g}, {dense.both_ms:.3g}")
        line += [_speed_up(case.loc[form], kind) for form in forms for kind in ("forward", "both")]
        memory = " / ".join(f"{case.peak_mb[form]:.0f}" for form in ("dense", *forms))
        limit = " / ".join(f"{100 * case.both_roofline[form]:.0f} %" for form in ("dense", "fourier"))
        lines.append([*line, dense.auto, memory, limit])
    return lines


def layers_legend(rows: pd.DataFrame) -> str:
    """What the columns mean."""
    row = rows.iloc[0]
    escnn = " / escnn" if "escnn" in set(rows.form) else ""
    return (
        "Input: images and their size. Dense: an ordinary convolution of planes, with the expansion of its filter, "
        "forward and with backward. The other forms: how many times as fast, with quartiles. Plain: torch's own one "
        "with as many parameters. auto: what the layer takes unasked. Memory: the peak of forward and backward beyond "
        f"layer and input, dense / Fourier{escnn} / plain. Of the limit: the time that the products alone, at "
        f"{row.peak_gflops:.0f} GFLOP/s, or reading and writing everything once, at {row.peak_gb_per_second:.0f} GB/s "
        "(both measured here), would take, as a share of the time taken, dense / Fourier."
    )


def layers_table(rows: pd.DataFrame) -> str:
    """Markdown."""
    return f"{layers_caption(rows)}.\n\n{markdown(layers_cells(rows))}\n\n{layers_legend(rows)}\n"


def steps_caption(rows: pd.DataFrame) -> str:
    """What was measured, and on what."""
    row = rows.iloc[0]
    return f"{network_sizes(row, width=False)}, {conditions(row, row.precision)} in which all of a width took turns"


def step_labels(rows: pd.DataFrame) -> list[str]:
    """What each row is, in words."""
    forms = {"native": "Fourier where faster"}
    labels = []
    for row in rows.itertuples():
        words = [_NAMES[row.group] if row.group == "z2" else f"{_NAMES[row.group]} U-Net"]
        words += [forms.get(row.form, row.form)] if row.group != "z2" else []
        words += ["channels last"] if row.channels_last else []
        words += ["compiled"] if row.compiled else []
        labels.append(", ".join(words))
    return labels


def steps_cells(rows: pd.DataFrame) -> list[list[str]]:
    """One line per network, the head first."""
    lines = [
        ["Width", "Network", "Parameters", "Products", "Build", "Training step", "Inference", "Deployed", "Memory"]
    ]
    for label, (_, row) in zip(step_labels(rows), rows.iterrows(), strict=True):
        own = f" + {row.escnn_init_seconds:.0f}" if pd.notna(row.escnn_init_seconds) else ""
        lines.append(
            [
                f"{row.width}",
                label,
                f"{row.parameters / 1e6:.2f} M",
                f"{row.multiplications / 1e3:.2f} G",
                f"{row.build_seconds:.2f}{own} s",
                *(times(row, kind) for kind in ("training", "inference", "deployed")),
                f"{row.peak_mb:.0f} MB",
            ]
        )
    return lines


def steps_legend(rows: pd.DataFrame) -> str:
    """What the columns mean."""
    plain = rows[(rows.group == "z2") & ~rows.channels_last & ~rows.compiled]
    times = [" / ".join(f"{x:.0f}" for x in plain[f"{kind}_ms"]) for kind in ("training", "inference", "deployed")]
    return (
        "Products: multiplications in a forward pass of one image. Build: in a fresh process; the second number is "
        "what escnn's own initialisation would add. Training step, inference, deployed (batch norm folded, filters "
        "prepared): the time of a batch as a multiple of that of the U-Net of the same width in the same round "
        f"({times[0]} ms, {times[1]} ms and {times[2]} ms), with quartiles. Memory: the peak of training, beyond the "
        "bare process."
    )


def steps_table(rows: pd.DataFrame) -> str:
    """Markdown."""
    return f"{steps_caption(rows)}.\n\n{markdown(steps_cells(rows))}\n\n{steps_legend(rows)}\n"


def layers_brief(rows: pd.DataFrame) -> list[list[str]]:
    """The same for a terminal: the speed-ups of forward and backward together, and what "auto" takes."""
    forms = [form for form in layers.FORMS[1:] if form in set(rows.form)]
    lines = [["Layer", "Dense, ms", *forms, "auto"]]
    for _, case in rows.groupby(_CASE, sort=False):
        case = case.set_index("form")
        dense = case.loc["dense"]
        fields = f"{dense.inputs} to {dense.outputs}, {_input(dense)}"
        line = [f"{_NAMES[dense.group]} {_LAYERS[dense.layer]}, {fields}", f"{dense.both_ms:.3g}"]
        lines.append([*line, *(f"{1 / case.both_ratio[form]:.2f}" for form in forms), dense.auto])
    return lines


def steps_brief(rows: pd.DataFrame) -> list[list[str]]:
    """The same for a terminal, without the quartiles."""
    lines = [["Width", "Network", "Training step", "Inference", "Deployed", "Memory"]]
    for label, row in zip(step_labels(rows), rows.itertuples(), strict=True):
        ratios = (row.training_ratio, row.inference_ratio, row.deployed_ratio)
        lines.append(
            [f"{row.width}", label, *(f"{x:.2f}" if pd.notna(x) else "" for x in ratios), f"{row.peak_mb:.0f} MB"]
        )
    return lines


def _input(case: pd.Series) -> str:
    return f"{case.batch} x {case.grid}²"


def _speed_up(row: pd.Series, kind: str) -> str:
    ratio, low, high = (row[f"{kind}_ratio{suffix}"] for suffix in ("", "_low", "_high"))
    return f"{1 / ratio:.2f} [{1 / high:.2f}, {1 / low:.2f}]"
