"""The GPUs that this process may use, without loading CUDA."""

from __future__ import annotations

import os
import subprocess


def visible_cards() -> tuple[str, ...]:
    """Values for CUDA_VISIBLE_DEVICES, one a card: what the environment allows, else all that the driver lists."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        cards = [card.strip() for card in allowed.split(",")]
        return tuple(card for card in cards if card and card != "-1")
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ()
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return tuple(str(number) for number in range(count))
