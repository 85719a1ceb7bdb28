"""Networks of the layers: the builder, the registry, checkpoints, deployment, trained weights."""
