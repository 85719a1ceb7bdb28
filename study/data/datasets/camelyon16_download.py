"""Getting Camelyon16 from its public bucket, or from a mirror.

The published list ``checksums.md5`` says which files there are, and by their sums they are checked.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import requests

from study.data.datasets.camelyon16_slides import INDEX, TISSUE, parse_index, select
from study.data.slides.files import by_slide
from study.data.transfer import Remote, fetch, get_list, open_session
from study.errors import StudyError
from study.files import replacing

BUCKET_URL = "https://camelyon-dataset.s3.us-west-2.amazonaws.com/CAMELYON16"


def download(
    folder: Path | str, *, selection: str = "all", source: str = BUCKET_URL, progress: bool = True
) -> list[Path]:
    """Get slides with their annotations and masks. What is complete is kept; what was begun goes on where it was.

    Args:
        folder: where to put them, in the source's own tree.
        selection: see :func:`~study.data.datasets.camelyon16_slides.select`.
        source: the address that ``checksums.md5`` and the paths in it follow; it is asked without credentials.
        progress: show a bar, if there is a terminal.

    Returns:
        the paths of all files of the selection.

    Raises:
        StudyError: if the source's list is damaged or a slide is not in it, or see
            :func:`~study.data.transfer.fetch`.
    """
    folder, source = Path(folder), source.rstrip("/")
    with open_session() as session:
        sums = _get_index(session, folder, source)
        files = {path: Remote(f"{source}/{quote(str(path))}", sums[path]) for path in _choose(sums, selection, source)}
        fetch(session, folder, files, source=source, progress=progress)
    return [folder / path for path in files]


def _get_index(session: requests.Session, folder: Path, source: str) -> dict[PurePosixPath, str]:
    """Get the list of files anew, and keep it in the folder."""
    url = f"{source}/{INDEX}"
    content = get_list(session, url)
    sums = parse_index(content.decode("utf-8-sig", "replace"), where=url)
    if not by_slide(sums, unused=TISSUE)[0]:
        raise StudyError(f"{url} lists no slides; check the source")
    with replacing(folder / INDEX) as temporary:
        temporary.write_bytes(content)
    return sums


def _choose(sums: Iterable[PurePosixPath], selection: str, source: str) -> list[PurePosixPath]:
    """The files of the chosen slides; annotations and masks of which there is no slide are of no use."""
    slides, annotations, masks = by_slide(sums, unused=TISSUE)
    names = select(slides, selection, where=source)
    return sorted(kind[name] for kind in (slides, annotations, masks) for name in names if name in kind)
