"""The GPUs that this process may use, without loading CUDA."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")


def visible_cards(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Values for CUDA_VISIBLE_DEVICES, one a card: what the environment allows, else all that the driver lists.

    Where the driver's own program is missing, as in a bare container, the device files count.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        cards = [card.strip() for card in allowed.split(",")]
        return tuple(card for card in cards if card and card != "-1")
    return tuple(str(number) for number in range(_listed() or _device_files(devices)))


def _listed() -> int:
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def _device_files(folder: Path) -> int:
    return sum(_DEVICE.fullmatch(path.name) is not None for path in folder.iterdir())
