"""How a network is trained: from a recipe to a workdir with checkpoints and an evaluation."""
