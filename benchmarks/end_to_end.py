# ruff: noqa: E402 - the project is imported from this checkout, once sys.path says so
"""A workload as a user runs it: text from a Parquet file through `python -m runner` to Arrow. One JSON line.

    python benchmarks/end_to_end.py SHAPE WORKLOAD FOLDER [--tokenizer DIR] [key=value ...]

Makes FOLDER/WORKLOAD.parquet (a prompt of exactly the workload's number of tokens, and each row's max_tokens) and
FOLDER/model (the shape's config.json, random weights, the tokenizer of DIR; default: the embedded model's), which
benchmarks/peers/vllm_offline.py reads too. ``seconds`` is from the first row read to the last row written, without
the start of process and engine; ``wall`` is the whole command.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import pyarrow as pa
import pyarrow.parquet
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from workloads import SHAPES, WORKLOADS

from runner.config import ModelSettings
from runner.models import resolve_model

SETTINGS = (
    "job=generate",
    "job.chat=false",
    "model.load_format=dummy",
    "sampling.temperature=0",
    "sampling.ignore_eos=true",
    "output.overwrite=true",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    source = asked.tokenizer or resolve_model(ModelSettings(path="smollm2-135m-instruct")).folder
    model, rows = asked.folder / "model", asked.folder / f"{asked.workload}.parquet"
    make_model(model, asked.shape, source)
    tokens = write_rows(rows, asked.workload, AutoTokenizer.from_pretrained(model))
    out = asked.folder / "out"
    command = [sys.executable, "-m", "runner", *SETTINGS, f"input.path={rows}", f"model.path={model}"]
    started = time.perf_counter()
    subprocess.run([*command, f"output.dir={out}", *asked.settings], check=True, cwd=ROOT)
    wall = time.perf_counter() - started
    seconds = generating_seconds(out)
    done = json.loads((out / "_SUCCESS").read_text())
    assert done["completion_tokens"] == tokens, "a row did not get its tokens"
    values = {"engine": "ours, end to end", "shape": asked.shape, "workload": asked.workload, "rows": done["rows"]}
    values |= {"seconds": round(seconds, 2), "wall": round(wall, 2), "tokens": tokens}
    print(json.dumps({**values, "tokens_per_second": round(tokens / seconds, 1), "settings": asked.settings}))


def make_model(folder: Path, shape: str, tokenizer: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))


def write_rows(path: Path, workload: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Writes the workload as text; the tokens that it asks for."""
    items, draw, words = WORKLOADS[workload](), random.Random(0), whole_words(tokenizer)
    prompts = ["".join(draw.choices(words, k=len(item.prompt))) for item in items]
    assert all(
        len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(item.prompt)
        for text, item in zip(prompts[:50], items[:50], strict=True)
    )
    options = [{"max_tokens": item.num_outputs} for item in items]
    pyarrow.parquet.write_table(pa.table({"prompt": prompts, "sampling_params": options}), path)
    return sum(item.num_outputs for item in items)


def whole_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Words that are one token each, with the space before them: any text of them has as many tokens as words."""
    texts = [tokenizer.decode([token]) for token in range(500, min(len(tokenizer), 30000))]
    return [text for text in texts if text[:1] == " " and text[1:].isascii() and text[1:].isalpha()]


def generating_seconds(out: Path) -> float:
    lines = [json.loads(line) for file in (out / ".runner" / "metrics").iterdir() for line in file.open()]
    (end,) = (line for line in lines if line["kind"] == "end")
    return float(end["generating_seconds"])


if __name__ == "__main__":
    main()
