"""The entry of Camelyon16; its slides are found in :mod:`~study.data.datasets.camelyon16_slides`."""

from pathlib import Path

from study.data.datasets.data_set import DataSet, Labels, SlideSet


def slides() -> SlideSet:
    from study.data.datasets.camelyon16_slides import GROUPS, find_slides, kind_of, recognises

    return SlideSet(find_slides, kind_of, GROUPS, recognises)


def download(folder: Path, address: str | None, selection: str) -> list[Path]:
    from study.data.datasets.camelyon16_download import BUCKET_URL, download

    return download(folder, selection=selection, source=address or BUCKET_URL)


DATA_SET = DataSet(
    name="camelyon16",
    title="Camelyon16",
    about="Camelyon16, the paper's data set: 399 whole slides of lymph nodes with outlines of metastases.",
    licence="CC0",
    labels={"": Labels("Camelyon16", "Camelyon16", foreground="metastases of breast cancer")},
    download=download,
    slides=slides,
)
