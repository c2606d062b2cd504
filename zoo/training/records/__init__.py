"""What a run measured, and where it is written, shown and drawn."""
