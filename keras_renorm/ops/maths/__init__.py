"""The formulas, each once: moments, sums, corrections, moving averages, passes over a tensor."""
