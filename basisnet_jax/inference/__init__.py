"""Inference with a trained network: early termination, folders and frames, exports."""
