"""What a program has in common with the others: flags, recipes, signals, the terminal."""
