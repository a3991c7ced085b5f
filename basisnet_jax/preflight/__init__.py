"""Checks of all hosts before a job; `launch/preflight.py` prints the findings."""
