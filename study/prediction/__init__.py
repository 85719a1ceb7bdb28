"""From a trained network back to a whole slide: a map of the tumour probability, and what is drawn from it."""
