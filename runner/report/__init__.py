"""What a run tells its user while it works and at its end."""
