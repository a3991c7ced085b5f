"""A trained two-stage model at work: early termination inside one compiled function."""
