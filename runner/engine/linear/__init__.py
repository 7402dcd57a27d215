"""Linear layers for the few rows of a decode step."""
