"""The errors and notices that a user is meant to see."""

import warnings


class StudyError(ValueError):
    """Something the user can mend: one line that names the file or the value, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class MissingPackageError(StudyError, ImportError):
    """What was asked for needs a package that is not installed; the line says how to install it."""


def one_line(error: StudyError) -> str:
    """What an error says, without the traceback in front that it arrives with from a loader process."""
    return str(error).strip().splitlines()[-1].removeprefix("study.errors.StudyError: ")


class StudyNotice(UserWarning):
    """Something that the user should know and that stops nothing. The command line prints it as one line."""


def notice(text: str) -> None:
    """Say something that stops nothing, once."""
    warnings.warn(text, StudyNotice, stacklevel=3)
