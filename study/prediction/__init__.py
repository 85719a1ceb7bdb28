"""From a trained network back to a whole slide: maps of the probability of each class, and what is drawn from them."""
