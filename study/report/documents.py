"""The tables in README.md and docs/: each is a Markdown file of ``figures/``, copied between two comments."""

import re
from collections.abc import Iterator
from pathlib import Path

from study.errors import StudyError
from study.files import replacing

TABLE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
"""What stands in a document: the path of the table below the root, then the table."""


def update_documents(root: Path) -> list[Path]:
    """Copy every table into the documents that show it.

    Returns:
        The documents that changed.

    Raises:
        StudyError: if there is no README.md, a table is missing, or a document cannot be written.
    """
    changed = []
    for path, text in read_documents(root):
        new = with_tables(text, root)
        if new != text:
            with replacing(path) as temporary:
                temporary.write_text(new, "utf-8")
            changed.append(path)
    return changed


def read_documents(root: Path) -> Iterator[tuple[Path, str]]:
    """README.md and docs/*.md with their texts."""
    if not (root / "README.md").is_file():
        raise StudyError(f"no README.md in {root.resolve()}; give --root, the folder of a checkout")
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        yield path, path.read_text("utf-8")


def with_tables(text: str, root: Path) -> str:
    """A document with its tables as they are in ``root`` now."""

    def fill(found: re.Match) -> str:
        start, path, _, end = found.groups()
        try:
            table = (root / path).read_text("utf-8")
        except OSError as error:
            raise StudyError(f"no table at {root / path}; draw it with `python -m study figures`") from error
        return f"{start}{table.rstrip()}\n{end}"

    return TABLE.sub(fill, text)
