"""``python -m study docs``: the tables in the documentation."""

from pathlib import Path

from study.cli.studies import Root


def docs(root: Root = Path()) -> None:
    """Copy the tables of figures/ into README.md and docs/, where they are shown."""
    from study.report.documents import update_documents

    changed = update_documents(root)
    for path in changed:
        print(path)
    if not changed:
        print("All tables are up to date.")
