"""The paper's numbers (Linmans, Winkens, Veeling, Cohen & Welling 2018, arXiv:1807.00583)."""

PAPER_DICE = {
    "unet-aug": {0.125: 74.2, 0.25: 77.6, 0.5: 78.5, 1.0: 79.8},
    "p4": {1.0: 82.5},
    "p4m": {0.125: 79.6, 0.25: 81.6, 0.5: 82.1, 1.0: 83.7},
}
"""Dice in % on Camelyon16 (Table 1), by model and data regime; P4 only on all of the data.

The U-Net was trained with roto-reflections (section 3.4); the paper has no number for one without.
"""
