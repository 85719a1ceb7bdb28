"""The law of exact sizes: the input sides on which a strided layer is exactly equivariant, and its output sides.

A layer with stride s reads its input at the positions ``-padding, -padding + s, ...``. Turning the image maps these
positions to themselves only if there is no remainder at the far side: ``(size + 2 * padding - kernel) % s == 0``.
Then the layer commutes with roto-reflections exactly; otherwise it reads other pixels after the turn, whatever its
weights. So 2x2 pooling with stride 2 needs an even size, the paper's 3x3 pooling with padding 1 an odd one; and
transposed convolutions are exact without ``output_padding``, which pads one side only.
"""


def is_exact(size: int, *, kernel_size: int, stride: int, padding: int) -> bool:
    """Whether a strided convolution or pooling is exactly equivariant on a side of ``size`` pixels."""
    return (size + 2 * padding - kernel_size) % stride == 0


def size_after(size: int, *, kernel_size: int, stride: int, padding: int) -> int:
    """The output side, in pixels, of a convolution or pooling for an input side of ``size`` pixels."""
    return (size + 2 * padding - kernel_size) // stride + 1


def size_after_transposed(size: int, *, kernel_size: int, stride: int, padding: int) -> int:
    """The output side of a transposed convolution."""
    return (size - 1) * stride - 2 * padding + kernel_size
