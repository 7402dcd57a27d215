"""Linear layers of a decode step: few rows against a wide weight."""
