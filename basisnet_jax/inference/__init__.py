"""A trained network at work: early termination, folders and frames, exports."""
