"""From slides to patches: sampling, one slide, all of them, downloads."""
