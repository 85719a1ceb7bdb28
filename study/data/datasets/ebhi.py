"""The entry of EBHI-SEG: its images are read in :mod:`~study.data.datasets.ebhi_images`."""

from pathlib import Path

from study.data.datasets import ebhi_box
from study.data.datasets.data_set import Card, DataSet, Images, Labels, digest_of
from study.data.datasets.ebhi_images import MAGNIFICATION, SIZE, case_of, ebhi_patches, find_pairs
from study.errors import StudyError


def read(data: Path | None, size: int, task: str) -> Images:
    """The patches of the download, or the reduced ones that come with the package.

    Raises:
        StudyError: if the patches of the package are smaller than ``size``, or see
            :func:`~study.data.datasets.ebhi_box.open_box`, :func:`~study.data.datasets.ebhi_images.find_pairs` and
            :func:`~study.data.datasets.ebhi_images.ebhi_patches`.
    """
    if data is None and size > ebhi_box.SIZE:
        raise StudyError(
            f"the EBHI-SEG that comes with the package has {ebhi_box.SIZE} x {ebhi_box.SIZE} pixels, fewer than "
            f"{size} x {size}; give --data PATH, the folder of `python -m study data ebhi PATH --download`"
        )
    pairs = find_pairs(ebhi_box.open_box() if data is None else data)
    files = ebhi_box.SHA256 if data is None else digest_of(data, (file for pair in pairs for file in pair))
    return Images(ebhi_patches(pairs, size, task=task), [case_of(image) for image, _ in pairs], files)


def download(folder: Path, address: str | None, selection: str) -> list[Path]:
    from study.data.datasets.ebhi_download import ARTICLE_URL, download_ebhi

    return download_ebhi(folder, source=address or ARTICLE_URL)


DATA_SET = DataSet(
    name="ebhi",
    title="EBHI-SEG",
    about="EBHI-SEG: 2,226 H&E patches of colorectal biopsies with masks of the glands. Reduced to 128 pixels, it "
    "comes with the package.",
    licence="CC BY 4.0",
    cases="patients",
    labels={
        "cancer": Labels(
            source="EBHI-SEG, cancer",
            caption="EBHI-SEG (cancer in colorectal biopsies)",
            foreground="glands of adenocarcinoma or high-grade intraepithelial neoplasia",
            limits=(
                "**What it marks** are whole glands of patches that were graded adenocarcinoma or high-grade "
                "intraepithelial neoplasia: the grade is of the patch, the outline of the glands. All other glands are "
                "background, and so is tumour outside of glands."
            ),
        ),
        "glands": Labels(
            source="EBHI-SEG, glands",
            caption="EBHI-SEG (glands in colorectal biopsies)",
            foreground="glands, healthy or not",
            limits="**What it marks** are glands of every grade, healthy ones too: it does not look for tumour.",
            former=("EBHI-SEG",),  # before there were two tasks
        ),
        "grades": Labels(
            source="EBHI-SEG, grades",
            caption="EBHI-SEG (benign glands and cancer in colorectal biopsies)",
            foreground="glands, those of adenocarcinoma or high-grade intraepithelial neoplasia apart from all others",
            limits=(
                "**What it tells apart** are whole glands by the grade of their patch: adenocarcinoma and high-grade "
                "intraepithelial neoplasia are cancer, all other grades benign. It does not grade single glands."
            ),
        ),
    },
    read=read,
    size=SIZE,
    needs="the EBHI-SEG folder (figshare 21540159)",
    packaged=True,
    pack=lambda folder, file: ebhi_box.pack_box(folder, file, progress=True),
    download=download,
    card=Card(
        subject="H&E patches of colorectal biopsies",
        original_size=SIZE,
        magnification=MAGNIFICATION,
        limits=(
            "**One hospital, one stain, biopsies of the colon and rectum**: nobody has tested it on anything else.",
            "**Patches with a gland**: there is one in every patch of the data, so it has hardly seen tissue without.",
        ),
        attribution="""\
Shi et al., *EBHI-Seg: A novel enteroscope biopsy histopathological hematoxylin and eosin image dataset for image
segmentation tasks*, Frontiers in Medicine 10, 1114673 (2023), <https://doi.org/10.3389/fmed.2023.1114673>; data:
<https://doi.org/10.6084/m9.figshare.21540159>. `study/data/datasets/ebhi_seg_LICENSE.txt` says what was changed.""",
    ),
)
