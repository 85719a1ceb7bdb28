"""A trained network on a whole slide: maps of the probability of each class, an overlay and contours."""
