"""The errors that a user is meant to see."""


class StudyError(ValueError):
    """Something the user can mend: one line that names the file or the value, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class MissingPackageError(StudyError, ImportError):
    """What was asked for needs a package that is not installed; the line says how to install it."""
