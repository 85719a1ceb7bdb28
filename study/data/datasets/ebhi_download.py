"""Getting EBHI-SEG at its full size from figshare: resumed where it broke off, checked, and unpacked."""

import json
import re
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import requests

from study.data.transfer import Remote, fetch, get_list, open_session
from study.errors import StudyError
from study.files import replacing, require_space

ARTICLE_URL = "https://api.figshare.com/v2/articles/21540159"
"""What figshare says of the data set: its files with their addresses, sizes and MD5 sums."""


def download_ebhi(folder: Path, *, source: str = ARTICLE_URL, progress: bool = True) -> list[Path]:
    """Get the archives and unpack them, so that :func:`~study.data.datasets.ebhi_images.find_pairs` reads the folder.

    What is complete is kept, an archive that was put there by hand too; what was begun goes on where it was.

    Args:
        folder: where to put the archives, and ``<class>/image`` and ``<class>/label`` beside them.
        source: the address of figshare's description.
        progress: show a bar, if there is a terminal.

    Returns:
        the paths of all images and labels.

    Raises:
        StudyError: if the description is damaged, an archive is none or leads out of the folder, or the disk is full;
            or see :func:`~study.data.transfer.fetch`.
    """
    with open_session() as session:
        files = _describe(session, source)
        fetch(session, folder, files, source=source, progress=progress)
    unpacked = [path for name in files for path in unpack(folder / name, folder)]
    if not unpacked:
        raise StudyError(f"{source} lists no archive with <class>/image/* and <class>/label/*; check the source")
    return unpacked


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack the images and labels of a zip archive; those that are there and whole are kept.

    Of their paths, only the last three parts are used, ``<class>/image/<name>`` or ``<class>/label/<name>``: whatever
    stands before them, the folder is one that :func:`~study.data.datasets.ebhi_images.find_pairs` reads. Other files
    are left out.

    Returns:
        the paths of all images and labels in the archive.

    Raises:
        StudyError: if it is no zip archive or damaged, has a file twice or one that leads out of the folder, or the
            disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, folder)
            missing = {target: member for target, member in members.items() if not _is_whole(target, member)}
            require_space(folder / archive.name, sum(member.file_size for member in missing.values()))
            for target, member in missing.items():
                with replacing(target) as temporary, opened.open(member) as packed, temporary.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise StudyError(
            f"{archive} is no zip archive that can be read here; unpack it by hand, so that {folder} holds "
            "<class>/image/* and <class>/label/*, and go on without --download"
        ) from error
    return list(members)


def _describe(session: requests.Session, source: str) -> dict[PurePosixPath, Remote]:
    """The files of the article, by their names."""
    content = get_list(session, source)
    try:
        files = {
            PurePosixPath(file["name"]): Remote(file["download_url"], file["computed_md5"], file["size"])
            for file in json.loads(content)["files"]
        }
        sound = all(_is_sound(path, remote) for path, remote in files.items())
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{source} is no description of files as figshare's are; check the source") from error
    if not files or not sound:
        raise StudyError(f"{source} is no description of files as figshare's are; check the source")
    return files


def _is_sound(path: PurePosixPath, remote: Remote) -> bool:
    return (
        _is_name(str(path))
        and isinstance(remote.url, str)
        and re.fullmatch(r"[0-9a-f]{32}", remote.md5) is not None
        and isinstance(remote.size, int)
    )


def _members(archive: zipfile.ZipFile, folder: Path) -> dict[Path, zipfile.ZipInfo]:
    """The images and labels of an archive, by the paths that they are to have."""
    members: dict[Path, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        parts = member.filename.split("/")
        if member.is_dir() or len(parts) < 3 or parts[-2] not in ("image", "label") or _is_hidden(parts):
            continue
        if not all(map(_is_name, parts)):
            raise StudyError(
                f"{archive.filename}: {member.filename} leads out of its folder; get the archive elsewhere"
            )
        target = folder.joinpath(*parts[-3:])
        if target in members:
            raise StudyError(f"{archive.filename} has {'/'.join(parts[-3:])} twice; unpack it by hand")
        members[target] = member
    return members


def _is_hidden(parts: list[str]) -> bool:
    """Whether it is of a Mac's making: ``__MACOSX/...``, ``._<name>``, ``.DS_Store``."""
    return parts[0] == "__MACOSX" or (parts[-1].startswith(".") and parts[-1] != "..")


def _is_name(part: str) -> bool:
    """Whether it names a file or a folder inside of another, on any system."""
    return part not in ("", ".", "..") and not re.search(r"[/\\:\0]", part)


def _is_whole(target: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a file is there with the content that it has in the archive."""
    if not target.is_file() or target.stat().st_size != member.file_size:
        return False
    return zlib.crc32(target.read_bytes()) == member.CRC
