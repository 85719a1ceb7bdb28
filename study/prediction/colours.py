"""The colour of each class, the same in pictures and in QuPath."""

_COLOURS = (
    (200, 0, 0),  # QuPath's tumour
    (0, 114, 178),  # the others are Okabe-Ito's, distinct for colour-blind readers
    (0, 158, 115),
    (230, 159, 0),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
)


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255, of a label value from 1 up; the colours repeat after seven."""
    return _COLOURS[(label - 1) % len(_COLOURS)]
