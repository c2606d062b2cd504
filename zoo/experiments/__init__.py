"""The papers' experiments, one per file: what is run, and what is claimed of it."""
