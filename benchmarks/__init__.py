"""Benchmarks of speed beside peers and floors: `make bench`."""
