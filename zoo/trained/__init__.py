"""Opens, evaluates, asks, recalibrates and exports trained models."""
