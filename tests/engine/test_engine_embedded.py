"""The embedded model: forty chat prompts get the tokens of transformers' `generate`, however they are batched."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import orjson
import pytest
import torch
from test_engine_core import finish

from runner.config import Device, EngineConfig, ModelSettings
from runner.engine.build import core_over
from runner.engine.device import open_device
from runner.engine.loader import load_model
from runner.models import resolve_model
from runner.text import TextTokenizer
from runner.types import EngineRequest, SamplingParams

MODEL = ModelSettings(path="smollm2-135m-instruct", device=Device.cpu)
ROWS = Path(__file__).resolve().parents[2] / "jobs" / "data" / "personas.jsonl"
MAX_TOKENS = 6


@cache
def prompts() -> list[list[int]]:
    tokenizer = TextTokenizer(resolve_model(MODEL).folder)
    rows = [orjson.loads(line) for line in ROWS.read_bytes().splitlines()[:40]]
    texts = [" ".join(map(str, list(row.values())[: 1 + i % 4])) for i, row in enumerate(rows)]
    return [tokenizer.encode_chat([{"role": "user", "content": text}])[1] for text in texts]


@cache
def generated() -> list[list[int]]:
    files = resolve_model(MODEL)
    model, answers = load_model(files, MODEL, torch.device("cpu")), []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        out = model.generate(ids, max_new_tokens=MAX_TOKENS, do_sample=False, eos_token_id=list(files.eos_token_ids))
        answers.append(out[0, len(prompt) :].tolist())
    return answers


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 40},
        {"max_num_seqs": 7, "block_size": 32, "overlap_prefill": True},
    ],
    ids=["all at once", "a few at a time, prompts beside rows"],
)
def test_forty_prompts_equal_generate(settings: dict) -> None:
    files = resolve_model(MODEL)
    model = load_model(files, MODEL, torch.device("cpu"))
    config = EngineConfig(max_model_len=512, cpu_kv_cache_gib=0.5, **settings)
    core = core_over(model, config, open_device("cpu"), files.eos_token_ids, context=8192)
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0)
    assert core.add([EngineRequest(i, prompt, params, (i,)) for i, prompt in enumerate(prompts())]) == []
    found = {sample.request_id: sample.token_ids for sample in finish(core)}
    assert [found[i] for i in range(40)] == generated()
