"""Masks of tumour at the scale of a view, from outlines or from the mask TIFFs of the public bucket."""

from study.data.slides.masks.comparison import Comparison, compare
from study.data.slides.masks.mask import Mask
from study.data.slides.masks.outlines import OutlineMask
from study.data.slides.masks.tiff import MaskFile, TiffMask

__all__ = ["Comparison", "Mask", "MaskFile", "OutlineMask", "TiffMask", "compare"]
