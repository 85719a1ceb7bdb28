"""``python -m study data``: make a patch store, from which networks are trained."""

from pathlib import Path
from typing import Annotated

import typer

from study.errors import StudyError


def ebhi(
    folder: Annotated[Path, typer.Argument(help="The EBHI-SEG folder (figshare 21540159).", show_default=False)],
    output: Annotated[Path | None, typer.Argument(help="The patch store to write (.h5).", show_default=False)] = None,
    get: Annotated[
        bool, typer.Option("--download", help="First get EBHI-SEG, and only that if no OUTPUT is given.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option("--from", help="Where a mirror describes its files.", metavar="URL", show_default="figshare"),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the patches in pixels; the originals have 224.", min=1)] = 224,
    task: Annotated[
        str, typer.Option(help="What is foreground: glands that are cancer, or all glands.", metavar="cancer|glands")
    ] = "cancer",
    pack: Annotated[
        Path | None,
        typer.Option(help="Write the reduced archive, as it comes with this package.", metavar="FILE"),
    ] = None,
) -> None:
    """EBHI-SEG at its full size: 2,226 H&E patches of colorectal biopsies with masks of the glands.

    Reduced to 128 pixels it comes with this package; this is for more than that. Cut the download at any moment and
    start it again: it goes on where it was.
    """
    from study.cli.show import show_store
    from study.data.datasets.ebhi_box import pack_box
    from study.data.datasets.ebhi_download import ARTICLE_URL, download_ebhi
    from study.data.datasets.sources import ebhi_store
    from study.files import sha256_of

    if output is None and pack is None and not get:
        raise StudyError("nowhere to put the patches; give OUTPUT, the patch store to write (.h5)")
    for path in (output, pack):
        if path is not None:
            check_new(path)
    if get:
        files = download_ebhi(folder, source=address or ARTICLE_URL)
        print(f"{len(files)} images and labels are complete in {folder}")
    if pack is not None:
        pack_box(folder, pack, progress=True)
        print(f"{pack}: {pack.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256_of(pack)}")
    if output is not None:
        show_store(ebhi_store(output, folder=folder, size=size, task=task))


def check_new(output: Path) -> None:
    if output.exists():
        raise StudyError(f"{output} exists; choose another name, or delete it")
