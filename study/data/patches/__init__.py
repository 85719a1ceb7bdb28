"""The patch store: its manifest, splits and regimes, and how torch reads it."""
