"""Small slides with annotations for tests, laid out as Camelyon16: noise in tissue's colours, a square of tumour."""

from pathlib import Path

import numpy as np

from study.data.slides.pyramid import write_pyramid

SIDE = 768  # of level 0, at 0.5 µm per pixel; 384 at 10x
TISSUE = (128, 640)  # of level 0, from and to, in both directions
TUMOUR = (256, 480)


def make_slides(folder: Path, names: list[str], *, side: int = SIDE, group: str = "Tumor") -> Path:
    """Write ``images/<name>.tif``, and ``annotations/<name>.xml`` for those that are not called normal."""
    for name in names:
        make_slide(folder / "images" / f"{name}.tif", side=side, seed=sum(name.encode()))
        if not name.startswith("normal"):
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "annotations" / f"{name}.xml").write_text(asap([square(*TUMOUR)], group=group))
    return folder


def make_slide(path: Path, *, side: int = SIDE, seed: int = 0, mpp: float = 0.5) -> Path:
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 245, np.uint8)
    tissue = slice(*TISSUE)
    image[tissue, tissue] = (205, 130, 175)
    coarse = rng.integers(-40, 40, (side // 8 + 1, side // 8 + 1, 3)).repeat(8, axis=0).repeat(8, axis=1)
    noisy = np.clip(image[tissue, tissue] + coarse[tissue, tissue], 0, 255).astype(np.uint8)
    image[tissue, tissue] = noisy
    write_pyramid(path, [image], image.shape, image.dtype, mpp=mpp, compression="jpeg")
    return path


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (high, low), (high, high), (low, high)]


def asap(outlines: list[list[tuple[float, float]]], *, group: str = "Tumor") -> str:
    """An annotation of polygons, as ASAP writes it."""
    annotations = "".join(
        f'<Annotation Name="Annotation {n}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(outline))
        + "</Coordinates></Annotation>"
        for n, outline in enumerate(outlines)
    )
    return f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{annotations}</Annotations></ASAP_Annotations>'
