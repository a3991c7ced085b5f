"""A trained two-stage model at work: early termination, frames on two devices."""
