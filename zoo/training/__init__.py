"""The training program's parts: config, working directory, loop, checkpoints, reports."""
