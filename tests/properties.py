"""How many examples hypothesis draws for a property: few, always the same; ``EXAMPLES=2000 pytest`` draws others."""

import os

from hypothesis import settings


def examples(count: int) -> settings:
    """A decorator for a test with ``@given``."""
    return settings(max_examples=int(os.environ.get("EXAMPLES", count)))
