"""Rotation-equivariant segmentation: group-equivariant U-Nets, compared."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``study.load_pretrained``, found when it is asked for, so that ``import study`` imports no torch (PEP 562)."""
    if name == "load_pretrained":
        from study.networks.pretrained import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
