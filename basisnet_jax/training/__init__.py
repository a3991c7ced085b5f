"""Training a network: from a recipe to a workdir with checkpoints and an evaluation."""
