"""Damage a patch store many times, and see what reading it does.

By hand, as it takes minutes: ``python tests/soak/damage_stores.py``. A small store is damaged in one place at a time: a
bit is flipped, bytes are replaced or set to zero, a patch or a checksum is zeroed with all that stands beside it, the
file is cut. Half of the places are anywhere, half in the structure: outside the pixels of the patches, where HDF5 keeps
what it finds them by. Each damaged store is read whole in a process of its own, as training reads it. Every one must be
refused in one line, or give what was written.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from data_helpers import SPLIT, make_patches

from study.data.patches.loading import PatchDataset
from study.data.patches.store import PatchStore, write_patches
from study.errors import StudyError

TIMEOUT = 5
"""Seconds for reading one store; it takes a twentieth of a second."""

OUTCOMES = ("noticed", "right", "wrong", "traceback", "crash", "hang")
GOOD = ("noticed", "right")


def whole(path: Path) -> list:
    """All that a store says."""
    store = PatchStore(path)
    about = [store.source, store.recipe, store.fingerprint, store.classes, store.mpp, store.size]
    labels = [labels.tolist() for labels in (store.case, store.slide, store.split, store.foreground())]
    patches = [(image.numpy().tobytes(), mask.numpy().tobytes()) for image, mask in PatchDataset(store, ALL)]
    return [*about, *labels, *patches]


ALL = np.arange(150)
"""The patches of the store: enough for HDF5 to need more than one block of its index."""


def structure(path: Path) -> np.ndarray:
    """The places in a file that are not the pixels of a patch, ascending."""
    outside = np.ones(path.stat().st_size, bool)
    with h5py.File(path) as file:
        for name in ("x", "mask"):
            chunks = []
            file[name].id.chunk_iter(chunks.append)
            for chunk in chunks:
                outside[chunk.byte_offset :][: chunk.size - 4] = False  # without the checksum
    return np.flatnonzero(outside)


def damage(content: bytes, places: np.ndarray, rng: np.random.Generator) -> tuple[str, bytes]:
    """The content with one damage, and what it is."""
    content, inside = np.frombuffer(content, np.uint8).copy(), bool(rng.integers(2))
    place = int(rng.choice(places)) if inside else int(rng.integers(len(content)))
    length = int(rng.choice([1, 4, 8, 16, 64, 512]))
    kind = str(rng.choice(["flip", "replace", "zero", "ones", "copy", "cut"], p=[0.3, 0.2, 0.3, 0.05, 0.1, 0.05]))
    there = content[place : place + length]
    if kind == "flip":
        content[place] ^= 1 << int(rng.integers(8))
    elif kind == "replace":
        there[:] = rng.integers(0, 256, len(there))
    elif kind == "zero":
        there[:] = 0
    elif kind == "ones":
        there[:] = 255
    elif kind == "copy":  # as when a block of the disk is written to another place
        source = int(rng.choice(places)) if inside else int(rng.integers(len(content)))
        bytes_there = content[source : source + len(there)].copy()
        there[: len(bytes_there)] = bytes_there
    else:
        content = content[:place]
    where = "in the structure" if inside else "anywhere"
    return f"{kind} {length} at {place}, {where}", content.tobytes()


def _read(path: Path, expected: list, answer) -> None:
    with open("/dev/null", "w") as nowhere:
        sys.stderr = nowhere
        try:
            answer.send(("right" if whole(path) == expected else "wrong", ""))
        except StudyError as error:
            answer.send(("noticed" if "\n" not in str(error) else "traceback", str(error)))
        except BaseException as error:
            answer.send(("traceback", f"{type(error).__name__}: {error}"))


def outcome(path: Path, expected: list) -> tuple[str, str]:
    """What reading a store does, one of :data:`OUTCOMES`, and its message."""
    fork = multiprocessing.get_context("fork")  # nothing is imported again
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_read, args=(path, expected, there))
    process.start()
    there.close()
    process.join(TIMEOUT) if not here.poll(TIMEOUT) else None
    try:
        found = here.recv() if here.poll(0) else ("hang", "")
    except EOFError:
        process.join()
        found = ("crash", f"exit code {process.exitcode}")
    process.kill()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1500, help="number of damages")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, found = np.random.default_rng(arguments.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        good, path = Path(folder) / "good.h5", Path(folder) / "damaged.h5"
        about = {"source": "noise", "recipe": {"count": len(ALL)}, "classes": ("rest", "bright"), "mpp": 0.5}
        fork = multiprocessing.get_context("fork")  # HDF5 keeps no state in this process
        with fork.Pool(1) as pool:
            pool.apply(write_patches, (good, make_patches(len(ALL)), SPLIT), about)
            expected, places = pool.apply(whole, (good,)), pool.apply(structure, (good,))
        assert outcome(good, expected) == ("right", "")
        content = good.read_bytes()
        for n in range(arguments.count):
            what, damaged = damage(content, places, rng)
            path.write_bytes(damaged)
            how, message = outcome(path, expected)
            found[how] += 1
            if how not in GOOD:
                print(f"{n}: {what}: {how} {message[:100]}", flush=True)
    counts = ", ".join(f"{found[how]} {how}" for how in OUTCOMES)
    print(f"{arguments.count} damages with seed {arguments.seed} of a store of {len(content)} bytes: {counts}")
    sys.exit(any(found[how] for how in OUTCOMES if how not in GOOD))


if __name__ == "__main__":
    main()
