"""Checkpoints and models of others into ones of this package, compared with what they were."""
