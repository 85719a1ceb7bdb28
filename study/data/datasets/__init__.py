"""The data sets, and how each becomes a patch store."""
