"""A few small requests before the first real one.

What `rehearsal` cannot know, for it is the model's own: other kernels, logits of another type. So real steps are run:
prompts alone and cut in two, decode steps of many rows and of few, greedy ones and drawn ones.
"""

from __future__ import annotations

from dataclasses import replace

from runner.engine.core import EngineCore
from runner.engine.device_times import DeviceTimes
from runner.engine.memory import FIRST_TOKENS
from runner.engine.model_runner import ModelRunner
from runner.engine.scheduler import Scheduler
from runner.engine.scheduler_config import SchedulerConfig
from runner.types import EngineRequest, SamplingParams

_SHORT_PROMPTS = 16  # a batch of as many rows or more has kernels of its own
_FEW_TOKENS, _MORE_TOKENS = 2, 5
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
_DRAWN = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, ignore_eos=True)


def warm_up(runner: ModelRunner, config: SchedulerConfig) -> None:
    """What it leaves in the cache is nobody's, and its time is not counted."""
    scheduler = Scheduler(replace(config, max_num_batched_tokens=min(FIRST_TOKENS, config.max_num_batched_tokens)))
    core = EngineCore(scheduler, runner, prefix_caching=False)
    for sampling in (_GREEDY, _DRAWN):
        core.add(_requests(config.max_model_len, sampling))
        while core.has_work:
            core.step()
    core.check_drained()
    runner.times = DeviceTimes()


def _requests(max_model_len: int, sampling: SamplingParams) -> list[EngineRequest]:
    """One prompt that does not fit a step, and short ones whose answers end sooner."""
    long = max(1, min(2 * FIRST_TOKENS, max_model_len - _MORE_TOKENS))
    asked = [(long, _MORE_TOKENS)] + [(min(i + 1, long), _FEW_TOKENS) for i in range(_SHORT_PROMPTS)]
    return [
        EngineRequest(i, [0] * length, replace(sampling, max_tokens=tokens), (i,))
        for i, (length, tokens) in enumerate(asked)
    ]
