"""How the edits of an admitted sequence get to the device: penalties, biases, what must not or not yet be sampled."""

from __future__ import annotations

from collections.abc import Callable

import torch

from runner.engine.sampler import SamplingState, bias_entries, needs_edits
from runner.engine.sequence import Sequence

EditLoad = Callable[[SamplingState], None]


def edits_of(admitted: list[Sequence]) -> list[tuple[int, EditLoad | None]]:
    """For each admitted slot, how its edits are loaded, or None where it has none."""
    return [(s.slot, _load_of(s) if needs_edits(s.sampling) else None) for s in admitted]


def _load_of(sequence: Sequence) -> EditLoad:
    slot, sampling = sequence.slot, sequence.sampling
    prompt, outputs = torch.from_numpy(sequence.prompt.token_ids), torch.from_numpy(sequence.outputs)
    bias = bias_entries(sampling)

    def load(state: SamplingState) -> None:
        device = state.words.device
        state.load_edits(slot, sampling, prompt.to(device), outputs.to(device), bias)

    return load
