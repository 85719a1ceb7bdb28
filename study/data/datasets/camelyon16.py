"""The entry of Camelyon16: its slides are found in :mod:`~study.data.datasets.camelyon16_slides`."""

import re
from collections.abc import Sequence
from pathlib import Path

from study.data.datasets.camelyon16_download import BUCKET_URL, download
from study.data.datasets.camelyon16_slides import GROUPS, find_slides, is_partial
from study.data.datasets.data_set import DataSet, Download, Labels, SlideSet
from study.data.extraction.sampling import SlideKind
from study.data.slides.files import SlideFiles


def kind_of(name: str) -> SlideKind:
    """What the name of a slide says of it."""
    return SlideKind(name, tumour=not name.startswith("normal"), partial=is_partial(name))


def recognises(folder: Path, slides: Sequence[SlideFiles]) -> bool:
    """Whether all slides have names of Camelyon16."""
    return all(re.fullmatch(r"(normal|tumor|test)_\d{3}", slide.name) for slide in slides)


DATA_SET = DataSet(
    name="camelyon16",
    title="Camelyon16",
    about="Camelyon16: 399 whole slides of lymph nodes with outlines of metastases, the paper's data set.",
    licence="CC0",
    labels={"": Labels("Camelyon16", "Camelyon16", ("background", "tumour"), foreground="metastases of breast cancer")},
    download=Download(download, BUCKET_URL),
    slides=SlideSet(find_slides, kind_of, GROUPS, recognises),
)
