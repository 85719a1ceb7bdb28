"""Networks of the layers: their contract, layer sets, the registry, checkpoints, deployment, trained weights."""
