"""Evaluates a trained network: its accuracy, its cost, and where to stop early."""
