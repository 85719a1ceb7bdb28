"""Write the hashes of the tested versions, for pip's ``--require-hashes``, and print the licences of all of them.

By hand, after a change of ``constraints.txt``, in the environment of the tests: ``python tests/soak/lock.py``. It asks
PyPI for the files of each version, and takes the one that pip would install here. torch is left out: which of its
builds fits depends on the machine.
"""

import re
import sysconfig
from collections import defaultdict
from email import message_from_string
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import requests
from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[2]
INDEX = "https://pypi.org/simple"
TAGS = {tag: rank for rank, tag in enumerate(sys_tags())}
LEFT_OUT = {"torch"}

FAMILIES = {  # the first pattern that fits names the licence; most packages write it in one of several ways
    "LGPL": "GNU Lesser General Public (LGPL), in whole or in bundled libraries",
    "MPL|Mozilla": "Mozilla Public (MPL 2.0)",
    "Apache": "Apache 2.0",
    "BSD|Modified": "BSD",
    "MIT|HPND": "MIT",
    "ISC": "ISC",
    "PSF|Python Software": "Python Software Foundation",
}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    here = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: str(pin.specifier)[2:] for pin in here if pin.marker is None or pin.marker.evaluate()}


def file_here(name: str, version: str) -> dict:
    """What PyPI says of the file that pip would install here."""
    answer = requests.get(
        f"{INDEX}/{canonicalize_name(name)}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}, timeout=60
    )
    answer.raise_for_status()
    best, rank = None, len(TAGS) + 1
    for file in answer.json()["files"]:
        filename = file["filename"]
        own = None
        if filename.endswith(".whl") and f"-{version}-" in filename:
            own = min((TAGS[tag] for tag in parse_wheel_filename(filename)[3] if tag in TAGS), default=None)
        elif filename.endswith(f"-{version}.tar.gz"):
            own = len(TAGS)  # after every wheel
        if own is not None and own < rank:
            best, rank = file, own
    if best is None:
        raise SystemExit(f"PyPI has no file of {name} {version} for {sysconfig.get_platform()}")
    return best


def licence(name: str, file: dict) -> str:
    """By the metadata of what is installed; PyPI has those of most wheels, too."""
    try:
        about = distribution(name).metadata
    except PackageNotFoundError:
        about = message_from_string(requests.get(f"{file['url']}.metadata", timeout=60).text)
    named = [value.rpartition(" :: ")[2] for value in about.get_all("Classifier", []) if value.startswith("License")]
    text = about.get("License-Expression") or ", ".join(named) or (about.get("License") or "").partition("\n")[0]
    return next((family for pattern, family in FAMILIES.items() if re.search(pattern, text)), text or "not stated")


def main() -> None:
    lines, by_licence = [], defaultdict(list)
    for name, version in pins().items():
        file = file_here(name, version)
        by_licence[licence(name, file)].append(name)
        if name not in LEFT_OUT:
            lines.append(f"{name}=={version} --hash=sha256:{file['hashes']['sha256']}")
    head = "# The files of constraints.txt, but torch, for CPython 3.11 on Linux, x86-64; made by tests/soak/lock.py.\n"
    (ROOT / "locked.txt").write_text(head + "\n".join(lines) + "\n")
    print("| Licence | Packages |\n| --- | --- |")
    for family, names in sorted(by_licence.items(), key=lambda item: -len(item[1])):
        print(f"| {family} | {', '.join(sorted(names, key=str.lower))} |")


if __name__ == "__main__":
    main()
