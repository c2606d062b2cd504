"""Recipes: a file each, whose docstring holds the command, the expected result and the time."""
