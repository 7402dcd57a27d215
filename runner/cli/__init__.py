"""From the command line to plain dataclasses: Hydra stays in here."""
