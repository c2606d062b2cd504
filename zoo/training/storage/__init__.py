"""A run's folder, and files that are complete or absent."""
