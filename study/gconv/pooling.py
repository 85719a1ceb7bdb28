"""Pooling of feature maps on the group: over pixels, and over orientations."""

from torch import Tensor, nn
from torch.nn import functional as F

from study.gconv.fast import pooling


class GroupMaxPool2d(nn.Module):
    """Spatial max pooling of each plane: ``(B, K, |G|, H, W)`` -> ``(B, K, |G|, H', W')``.

    Exact where ``(size + 2 * padding - kernel_size) % stride == 0``: 2x2 with stride 2 on even sizes, the paper's
    3x3 with stride 2 and padding 1 on odd ones.

    Args:
        kernel_size, stride, padding: in pixels, as for ``nn.MaxPool2d``; the stride is the kernel size by default.

    Raises:
        ValueError: if the input is not a feature map.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 5:
            raise ValueError(f"GroupMaxPool2d expects (B, K, |G|, H, W), not {tuple(f.shape)}")
        if pooling.runs(f, self.kernel_size, self.stride, self.padding):
            return pooling.max_pool(f)
        pooled = F.max_pool2d(f.flatten(1, 2), self.kernel_size, self.stride, self.padding)  # (B, K * |G|, H', W')
        return pooled.unflatten(1, f.shape[1:3])  # (B, K, |G|, H', W')

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class OrientationPool2d(nn.Module):
    """From a feature map on the group to an image by the maximum or the mean over the orientations.

    The usual invariant alternative to :class:`ProjectionConv2d`: ``(B, K, |G|, H, W)`` -> ``(B, K, H, W)``.

    Raises:
        ValueError: if ``reduction`` is neither "max" nor "mean", or the input is not a feature map.
    """

    def __init__(self, reduction: str = "max") -> None:
        super().__init__()
        if reduction not in ("max", "mean"):
            raise ValueError(f'reduction is {reduction!r}; give "max" or "mean"')
        self.reduction = reduction

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 5:
            raise ValueError(f"OrientationPool2d expects (B, K, |G|, H, W), not {tuple(f.shape)}")
        return f.amax(dim=2) if self.reduction == "max" else f.mean(dim=2)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"
