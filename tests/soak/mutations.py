"""How a file may be damaged: bits and bytes of any file, and the numbers, words, lines and values of a text."""

import json
import random
import re
from collections.abc import Callable

NUMBERS = (
    *("0", "1", "-1", "2", "0.5", "-0", "1e-320", "1e7", "1e308", "1e999", "nan", "inf", "-Infinity", "255", "65536"),
    *("2147483648", "9223372036854775808", "1_000", "0x10", "٣", "true", "null", "", " "),
    "9" * 5000,  # longer than Python reads as an integer
)
WORDS = ("", "None", "Tumor", "nan", "../../x", "a\nb", "é", "\0", "]]>", "&lt;", "%s", "x" * 10_000)
VALUES = (None, True, 0, -1, 0.5, 1e308, 10**400, "", "a\nb", "nan", [], {}, [[]], [None], {"type": None})

_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[^\W\d]\w*")
_TOKEN = re.compile(rb"\w+|[^\w\s]")


def mutate(content: bytes, kind: str, chance: random.Random) -> bytes:
    """The content after one to three mutations; never the same as before.

    Args:
        kind: "bytes", "text" (the tokens and lines of it too), or "json" (its values too).
    """
    known = {"bytes": BYTES, "text": BYTES + 2 * TEXT, "json": BYTES + TEXT + 8 * JSON}[kind]
    mutated = content
    while mutated == content:
        for _ in range(chance.choice([1, 1, 2, 3])):
            mutated = chance.choice(known)(mutated, chance)
    return mutated


# --- of bytes ---


def flip_bits(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        if damaged:
            damaged[_place(damaged, chance)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def insert(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + chance.randbytes(chance.choice([1, 1, 2, 8, 100])) + content[at:]


def remove(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + content[at + chance.choice([1, 1, 2, 8, 100]) :]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    """With zeros, ones, any bytes, or a piece of itself, as a disk might."""
    at, length = _place(content, chance), chance.choice([1, 4, 8, 64, 512, 4096])
    length = min(length, len(content) - at)
    from_here = _place(content, chance)
    piece = chance.choice([bytes(length), b"\xff" * length, chance.randbytes(length), content[from_here:][:length]])
    return content[:at] + piece + content[at + len(piece) :]


def _place(content: bytes, chance: random.Random) -> int:
    """Anywhere; every other time near the beginning, where most formats say what they hold."""
    return chance.randrange(min(len(content), chance.choice([2048, len(content)])) or 1)


# --- of text ---


def replace_number(content: bytes, chance: random.Random) -> bytes:
    return _replace(_NUMBER, content, chance, chance.choice(NUMBERS).encode())


def replace_word(content: bytes, chance: random.Random) -> bytes:
    """By an odd one, or by another of the file."""
    others = _WORD.findall(content) or [b""]
    return _replace(_WORD, content, chance, chance.choice([chance.choice(WORDS).encode(), chance.choice(others)]))


def replace_token(content: bytes, chance: random.Random) -> bytes:
    """By nothing, itself twice, or another of the file."""
    tokens = _TOKEN.findall(content) or [b""]
    token = chance.choice(tokens)
    return _replace(
        re.compile(re.escape(token)), content, chance, chance.choice([b"", 2 * token, chance.choice(tokens)])
    )


def move_line(content: bytes, chance: random.Random) -> bytes:
    """Leave it out, repeat it, or put it elsewhere."""
    lines = content.splitlines(keepends=True) or [b""]
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.randrange(3)):
        lines.insert(chance.randrange(len(lines) + 1), line)
    return b"".join(lines)


def _replace(pattern: re.Pattern, content: bytes, chance: random.Random, by: bytes) -> bytes:
    found = [match.span() for match in pattern.finditer(content)]
    if not found:
        return content
    start, end = chance.choice(found)
    return content[:start] + by + content[end:]


# --- of JSON ---


def replace_value(content: bytes, chance: random.Random) -> bytes:
    """Of any depth, by an odd one; or leave it out, or repeat it, or rename its key."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):  # an earlier mutation's doing
        return content
    places = list(_places(tree))
    if not places:
        return content
    parent, key = chance.choice(places)
    value = parent.pop(key)
    if chance.random() < 0.3:
        return json.dumps(tree).encode()
    value, key = chance.choice([(chance.choice(VALUES), key), (chance.choice(VALUES), key), (value, "another")])
    if isinstance(parent, dict):
        parent[key] = value
    else:
        parent.insert(chance.randrange(len(parent) + 1), value)
    return json.dumps(tree).encode()


def _places(tree: object):
    """Every container of a tree with every key or index of it."""
    if isinstance(tree, dict | list):
        for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
            yield tree, key
            yield from _places(value)


Mutation = Callable[[bytes, random.Random], bytes]

BYTES: list[Mutation] = [flip_bits, flip_bits, truncate, insert, remove, overwrite]
TEXT: list[Mutation] = [replace_number, replace_number, replace_word, replace_token, move_line]
JSON: list[Mutation] = [replace_value]
