# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""What a second card brings: a workload end to end on one card, then with launch=local on two. A JSON line each.

    python benchmarks/two_cards.py SHAPE FOLDER [--workload mixed512x2] [--cards 1 2] [--tokenizer DIR] [key=value ...]
    python benchmarks/two_cards.py tiny /tmp/two --workload fewx2 model.device=cpu       to try it without a card

``seconds`` is the time in which all generate: it begins when every process has its engine and its first rows, which
wait for one another there, and ends with the last commit. ``start`` is the time before that, ``wall`` the whole
command, ``spread`` the seconds between the last commits of the first and the last process to end. The last line has
the ratio of tokens a second, of medians where a number of cards is given more than once.

Each card gets one range of equal work. 256 sequences at once, unless engine.max_num_seqs says otherwise, keep every
step of either run full until the end: with all rows at once a card that has half of them makes half-filled steps, and
the ratio would show what larger batches bring, not what sharing costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from end_to_end import SETTINGS, make_model, write_rows
from scaling import last_commits
from transformers import AutoTokenizer
from workloads import SHAPES, WORKLOADS

from runner.config import ModelSettings
from runner.models import resolve_model

JOB = """
import os, time
from pathlib import Path

_READY, _GO = Path(__file__).with_name(f"ready-{os.getpid()}"), Path(__file__).with_name("go")


def prompt(row):
    if not _READY.exists():
        _READY.touch()
        while not _GO.exists():
            time.sleep(0.002)
    return row["prompt"]
"""


@dataclass(frozen=True)
class Figures:
    """Of one run, in seconds."""

    start: float
    seconds: float
    wall: float
    spread: float


def main() -> None:
    asked = parse()
    source = asked.tokenizer or resolve_model(ModelSettings(path="smollm2-135m-instruct")).folder
    model, rows = asked.folder / "model", asked.folder / "rows.parquet"
    make_model(model, asked.shape, source)
    tokens = write_rows(rows, asked.workload, AutoTokenizer.from_pretrained(model))
    num_rows = len(WORKLOADS[asked.workload]())
    settings = [
        *SETTINGS,
        f"input.path={rows}",
        f"model.path={model}",
        f"output.rows_per_shard={-(-num_rows // max(asked.cards))}",
        "engine.max_num_seqs=256",
        *asked.settings,
    ]
    rates: dict[int, list[float]] = {}
    for cards in asked.cards:
        figures = measure(asked.folder, cards, settings, tokens)
        rates.setdefault(cards, []).append(tokens / figures.seconds)
        values = {"engine": "ours, end to end", "shape": asked.shape, "workload": asked.workload, "cards": cards}
        values |= {name: round(value, 2) for name, value in vars(figures).items()}
        values |= {"rows": num_rows, "tokens": tokens, "tokens_per_second": round(rates[cards][-1], 1)}
        print(json.dumps({**values, "settings": asked.settings}), flush=True)
    medians = {cards: statistics.median(found) for cards, found in rates.items()}
    ratios = {str(cards): round(rate / medians[min(medians)], 3) for cards, rate in medians.items()}
    print(json.dumps({"ratio": ratios}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="mixed512x2")
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_intermixed_args()
    asked.folder = asked.folder.resolve()
    return asked


def measure(folder: Path, cards: int, settings: list[str], tokens: int) -> Figures:
    """``settings`` come before what this run needs of its own."""
    run, out = folder / f"cards-{cards}", folder / f"cards-{cards}" / "out"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "runner", *settings, f"job.module={run / 'job.py'}", f"output.dir={out}"]
    if cards > 1:
        command += ["launch=local", f"launch.gpus={cards}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.time()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    while len(list(run.glob("ready-*"))) < cards:
        if process.poll() is not None:
            sys.exit(f"{cards} cards: the command ended with {process.returncode} before all of them were ready")
        time.sleep(0.01)
    ready = time.time()
    (run / "go").touch()
    if process.wait():
        sys.exit(f"{cards} cards: the command ended with {process.returncode}")
    wall, ends = time.time() - began, last_commits(out)
    done = json.loads((out / "_SUCCESS").read_text())
    assert done["completion_tokens"] == tokens, "a row did not get its tokens"
    return Figures(ready - began, max(ends) - ready, wall, max(ends) - min(ends))


if __name__ == "__main__":
    main()
