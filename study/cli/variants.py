"""Commands made of one function with different values, for each data set."""

import inspect
from collections.abc import Callable


def variant(function: Callable, about: str, **fixed: object) -> Callable:
    """A command that calls ``function`` with some values fixed, which are not options.

    Args:
        function: the function of a command.
        about: help text before the function's own.
        fixed: the values by the names of the parameters.
    """

    def command(**options: object) -> None:
        function(**options, **fixed)

    signature = inspect.signature(function)
    command.__signature__ = signature.replace(
        parameters=[p for name, p in signature.parameters.items() if name not in fixed]
    )
    command.__doc__ = f"{about}\n\n{inspect.getdoc(function) or ''}".strip()
    return command
