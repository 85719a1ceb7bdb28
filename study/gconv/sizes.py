"""The law of exact sizes: which sides a strided layer keeps exactly equivariant, and the sides that follow from it.

A layer with stride s reads its input at the positions ``-padding, -padding + s, ...``. Turning the image turns these
positions into themselves only if nothing is left over at the far side: if ``(size + 2 * padding - kernel) % s == 0``.
Then the layer commutes with roto-reflections exactly; otherwise it reads other pixels after the turn, and no weights
can mend that. So 2x2 pooling with stride 2 needs an even size, the paper's 3x3 pooling with padding 1 an odd one; and
transposed convolutions are exact without ``output_padding``, which pads one side only.
"""


def is_exact(size: int, *, kernel_size: int, stride: int, padding: int) -> bool:
    """Whether a strided convolution or pooling keeps a side of ``size`` pixels exactly equivariant."""
    return (size + 2 * padding - kernel_size) % stride == 0


def size_after(size: int, *, kernel_size: int, stride: int, padding: int) -> int:
    """The side, in pixels, that a convolution or pooling makes of one of ``size`` pixels."""
    return (size + 2 * padding - kernel_size) // stride + 1


def size_after_transposed(size: int, *, kernel_size: int, stride: int, padding: int) -> int:
    """The same of a transposed convolution."""
    return (size - 1) * stride - 2 * padding + kernel_size
