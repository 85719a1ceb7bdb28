"""Damage every kind of file that the study reads, many times, and see what becomes of each.

By hand, as it takes minutes: ``python tests/soak/fuzz_readers.py``; its output is ``fuzz_readers.txt`` beside it. Each
mutation (``mutations.py``) is drawn from the seed, the reader and its number alone, so that one can be made again. A
process of its own reads, within 10 seconds and 4 GiB, so that a hang or a crash is counted and not suffered:

right       what is read is what it was before
refused     a StudyError of one line that names the file
another     the file is another valid one, of a format without a checksum, or read with the notice that it lacks one
WRONG       the same of a format that has a checksum, and without a word
traceback   any other exception, or a StudyError that does not name the file in one line
hang        no answer within 10 seconds
crash       the process was ended by a signal
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"  # a reader that was killed leaves no lock

import numpy as np
import pandas as pd
import psutil
import torch
from mutations import mutate

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_helpers import make_store
from mask_helpers import FakeView, level0_mask, random_annotation, write_tiff
from slide_helpers import make_slides

from study.data.datasets.camelyon16_slides import GROUPS
from study.data.datasets.image_folder import case_table
from study.data.extraction.one_slide import Scale, extract_slide
from study.data.extraction.plan import plan
from study.data.patches.loading import PatchDataset
from study.data.patches.manifest import manifest_path, read_manifest, write_manifest, write_recipe
from study.data.patches.store import PatchStore
from study.data.slides.annotations import EMPTY_ANNOTATION, read_annotation
from study.data.slides.files import find_slides
from study.data.slides.masks import OutlineMask, TiffMask
from study.errors import StudyError, StudyNotice
from study.experiments.presets import FOLDER, load_preset
from study.experiments.records import SECTIONS, read_record, record_files
from study.networks.checkpoint import load_model, save_checkpoint
from study.networks.unet import UNetArchitecture
from study.report.records import case_sums, trial_rows

OUTPUT = Path(__file__).with_suffix(".txt")

TIMEOUT = 10
"""Seconds."""

START = 60
"""Seconds more until the first answer of a process."""

MEMORY = 4 * 2**30
"""Bytes that a reader may take."""

OUTCOMES = ("right", "refused", "another", "WRONG", "traceback", "hang", "crash")
SIDE = 128
"""Of the slide of annotations and masks, in pixels."""

IMAGES = [Path(f"image_{n}.png") for n in range(12)]


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        make: write an undamaged one, and what it needs beside it, below a folder; returns the file.
        read: all that a study takes from the file, comparable.
        kind: of the mutations, see :func:`mutations.mutate`.
        checked: whether the format has a checksum over all of its content.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    kind: str
    checked: bool = False


# --- what is read ---


def read_outlines(path: Path) -> object:
    annotation = read_annotation(path, groups=GROUPS, size=(SIDE, SIDE))
    mask = OutlineMask(annotation, FakeView(SIDE, SIDE, 4), partial=True).read(0, 0, SIDE // 4, SIDE // 4)
    return annotation.tumour.wkb, annotation.excluded.wkb, annotation.summary, mask.tobytes()


def read_mask(path: Path) -> object:
    view = FakeView(SIDE, SIDE, 4)
    with TiffMask(path, view, partial=True) as mask:
        return mask.read(0, 0, view.width, view.height).tobytes(), mask.cell_map(16).tobytes()


def read_store(path: Path) -> object:
    store = PatchStore(path)
    dataset = PatchDataset(store, np.arange(len(store)))
    patches = [part.numpy().tobytes() for n in range(len(store)) for part in dataset[n]]
    labels = [list(map(str, values)) for values in (store.case, store.slide, store.split)]
    about = store.size, store.source, store.fingerprint, store.classes, repr(store.mpp)
    return patches, store.foreground().tobytes(), labels, about


def read_extraction(path: Path) -> object:
    return read_store(path.parent), read_manifest(path).to_csv()


def read_trial(path: Path) -> object:
    """A record, and what tables take from it, whatever the order of its entries."""
    record = read_record(path)
    content = {section: record[section] for section in (*SECTIONS, "history", "case_columns")}
    row, sums = trial_rows([record]).sort_index(axis=1), case_sums([record], ("tp", "fp", "fn"))
    return json.dumps(content, sort_keys=True), row.to_csv(), None if sums is None else sums.to_csv()


def read_weights(path: Path) -> object:
    network = load_model(path)
    return [(name, tensor.numpy().tobytes()) for name, tensor in network.state_dict().items()]


def read_cases(path: Path) -> object:
    return [case_of(image) for case_of in [case_table(path)] for image in IMAGES]


def read_preset(path: Path) -> object:
    preset = load_preset(path)
    return repr(preset), [repr(preset.trial_settings(model)) for model in preset.models]


# --- undamaged files ---


def make_asap(folder: Path) -> Path:
    path = folder / "tumor_001.xml"
    path.write_text(
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>\n'
        + "".join(
            f'<Annotation Name="Annotation {n}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">\n<Coordinates>\n'
            + "".join(f'<Coordinate Order="{i}" X="{x:.2f}" Y="{y:.2f}" />\n' for i, (x, y) in enumerate(points))
            + "</Coordinates>\n</Annotation>\n"
            for n, (kind, group, points) in enumerate(_outlines())
        )
        + "</Annotations>\n<AnnotationGroups>\n"
        '<Group Name="_0" PartOfGroup="None" Color="#00ff00"><Attributes /></Group>\n</AnnotationGroups>\n'
        "</ASAP_Annotations>\n"
    )
    return path


def make_qupath(folder: Path) -> Path:
    features = [
        {
            "type": "Feature",
            "id": f"0{n}",
            "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
            "properties": {"objectType": "annotation", "classification": {"name": group, "color": [200, 0, 0]}},
        }
        for n, (_, group, points) in enumerate(_outlines())
    ]
    features[0]["geometry"] = {"type": "MultiPolygon", "coordinates": [features[0]["geometry"]["coordinates"]]}
    path = folder / "tumor_001.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    return path


def _outlines() -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Type, group and points: one beyond the border, one that crosses itself, a hole, an exclusion and a dot."""
    return [
        ("Polygon", "Tumor", [(10, 10), (90, 12.5), (84.75, 80), (12, 90)]),
        ("Spline", "Tumor", [(60, 60), (140, 70), (120, 120), (70, 110)]),
        ("Polygon", "_0", [(5, 95), (40, 125), (40, 95), (5, 125)]),
        ("Rectangle", "_2", [(20, 20), (40, 20), (40, 40), (20, 40)]),
        ("Polygon", "None", [(80, 5), (120, 5), (100, 50)]),
        ("Dot", "Tumor", [(1, 2)]),
    ]


def make_mask(folder: Path, **options) -> Path:
    level0 = level0_mask(random_annotation(0, SIDE), SIDE, SIDE)
    return write_tiff(folder / "tumor_001_mask.tif", level0, **options)


def make_manifest(folder: Path) -> Path:
    """With the rest of a folder of patches from slides."""
    slides, store = folder / "of_slides", folder / "store"
    make_slides(slides, [f"{kind}_{n:03}" for kind in ("normal", "tumor") for n in (1, 2, 3)])
    for n in (1, 2, 3):
        (slides / "annotations" / f"normal_{n:03}.xml").write_text(EMPTY_ANNOTATION)
    planned = plan(find_slides(slides, "all")[0], scale=Scale(32), patches=30, seed=0, source="test")
    write_recipe(store, planned.recipe)
    tables = [extract_slide(task, store) for task in planned.tasks]
    write_manifest(store, pd.concat([table for table in tables if len(table)]))
    return manifest_path(store)


def make_record(folder: Path) -> Path:
    return Path(shutil.copy(record_files(Path(__file__).parents[2] / "results" / "quick")[0], folder))


def make_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    architecture = UNetArchitecture("p4m", width=4, depth=1, grid="even")
    path = folder / "best.pt"
    save_checkpoint(path, architecture, architecture.build().state_dict(), trial={"model": "p4m", "seed": 0})
    return path


def make_preset(folder: Path) -> Path:
    return Path(shutil.copy(FOLDER / "ebhi-cancer.toml", folder))


def make_table(folder: Path) -> Path:
    path = folder / "cases.csv"
    rows = [f"{image.name if n % 2 else image.stem},patient {n // 3}\n" for n, image in enumerate(IMAGES)]
    path.write_text("file,case\n" + "".join(rows))
    return path


READERS = {
    "asap": Reader(make_asap, read_outlines, "text"),
    "geojson": Reader(make_qupath, read_outlines, "json"),
    "mask": Reader(make_mask, read_mask, "bytes"),
    "store": Reader(lambda folder: make_store(folder / "store.h5"), read_store, "bytes", checked=True),
    "manifest": Reader(make_manifest, read_extraction, "text"),
    "record": Reader(make_record, read_trial, "json", checked=True),
    "checkpoint": Reader(make_checkpoint, read_weights, "bytes", checked=True),
    "preset": Reader(make_preset, read_preset, "text"),
    "cases": Reader(make_table, read_cases, "text"),
}


# --- the trial of a reader ---


def mutation(name: str, content: bytes, seed: int, number: int) -> bytes:
    """The content after the mutation of that number."""
    return mutate(content, READERS[name].kind, random.Random(f"{seed} {name} {number}"))


def attempt(name: str, path: Path, expected: object) -> tuple[str, str]:
    """What comes of reading, one of :data:`OUTCOMES`; and of a traceback its last line and place."""
    reader = READERS[name]
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", StudyNotice)
            found = reader.read(path)
    except StudyError as error:
        if "\n" in str(error) or not any(str(place) in str(error) for place in (path, path.parent)):
            return "traceback", f"StudyError that is not one line with the file: {str(error)!r:.200}"
        return "refused", ""
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/study/" in f.filename]
        at = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"{last.filename}:{last.lineno}"
        return "traceback", f"{type(error).__name__} at {at}: {' '.join(str(error).split()):.150}"
    if found == expected:
        return "right", ""
    unchecked = not reader.checked or any(issubclass(warning.category, StudyNotice) for warning in said)
    return ("another" if unchecked else "WRONG"), ""


def read_many(name: str, path: Path, content: bytes, seed: int, numbers: Sequence[int], pipe: Connection) -> None:
    """In a process of its own: read one mutation after the other, and send what became of each."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries talk to the terminal about damage
    torch.set_num_threads(1)
    path.write_bytes(content)  # the process before may have been ended in the middle
    expected = READERS[name].read(path)
    limit = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        path.write_bytes(mutation(name, content, seed, number))
        pipe.send(attempt(name, path, expected))


def outcomes(name: str, path: Path, content: bytes, seed: int, count: int) -> Iterator[tuple[str, str]]:
    """What became of each mutation, in order; a process that hangs or dies is followed by another."""
    done = 0
    while done < count:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (name, path, content, seed, range(done, count), theirs)
        process = multiprocessing.get_context("fork").Process(target=read_many, args=arguments)
        process.start()
        theirs.close()
        began = done
        while done < count:
            if not ours.poll(TIMEOUT + START * (done == began)):
                process.kill()
                yield "hang", "no answer"
            else:
                try:
                    yield ours.recv()
                    done += 1
                    continue
                except EOFError:
                    process.join()
                    yield "crash", f"signal {-process.exitcode}"
            done += 1
            break
        process.join()


def fuzz(name: str, seed: int, count: int) -> tuple[Counter, dict[str, list[int]]]:
    """How often each outcome came of a reader, and the numbers of the mutations behind every line of what is wrong."""
    counts, findings = Counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        path = READERS[name].make(Path(folder))
        for number, (outcome, line) in enumerate(outcomes(name, path, path.read_bytes(), seed, count)):
            counts[outcome] += 1
            if line or outcome == "WRONG":
                findings.setdefault(f"{outcome}: {line}".replace(folder, ""), []).append(number)
    return counts, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", default=list(READERS), metavar="READER", help=", ".join(READERS))
    parser.add_argument("--count", type=int, default=10_000, help="mutations for each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = [f"{options.count} mutations of each kind of file, seed {options.seed}", ""]
    lines.append(f"{'file':12}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES) + f"{'seconds':>11}")
    print("\n".join(lines), flush=True)
    wrong = []
    for name in options.readers:
        began = time.monotonic()
        counts, findings = fuzz(name, options.seed, options.count)
        took = f"{time.monotonic() - began:>11.0f}"
        lines.append(f"{name:12}" + "".join(f"{counts[outcome]:>11}" for outcome in OUTCOMES) + took)
        print(lines[-1], flush=True)
        for line, numbers in sorted(findings.items(), key=lambda item: -len(item[1])):
            wrong.append(f"{name}: {len(numbers)} times, first in mutation {numbers[0]}: {line}")
    lines += ["", *(wrong or ["no traceback, hang, crash or wrong answer"])]
    print("\n".join(lines[-len(wrong or [0]) - 1 :]))
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
