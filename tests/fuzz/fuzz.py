"""Throws random rows at the readers, the conversations, the sampling options, the ids and the templates.

    PYTHONPATH=.:tests python tests/fuzz/fuzz.py --cases 1000000

A case is one line, one row or one template. It fails when a reader disagrees with the strict reference, when
anything but the documented error comes out, or when one case takes longer than HANG_SECONDS. The seed of a failing
round is printed; ``--seed N --cases 1`` runs that round again.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from strict_json import Strict

from runner.errors import ConfigError
from runner.input.conversation import PromptError, ask_of_batch_line, checked_messages
from runner.input.json_lines import LineError, parse_line, parse_lines
from runner.input.template import MAX_CHARS, PromptTemplate, TemplateError
from runner.input.token_ids import checked_ids, ids_of_column
from runner.text import override_sampling
from runner.types import SamplingParams

HANG_SECONDS = 60
LINES = [
    b'{"prompt": "hi", "n": 1}',
    b'{"a": [1, -2.5e3, null, true], "b": {"c": "\\u00e9\\n"}}',
    b'{"k": 9223372036854775807}',
    b'{"messages": [{"role": "user", "content": "x"}], "id": "7"}',
    b'{"e": "\xc3\xa9\xe2\x80\xa8", "f": {}}',
    b"[1]",
    b"",
]
PIECES = [
    *rb"""{ } [ ] " : , \ \u d800 1e999 NaN - 9223372036854775808 Infinity "a":1 "prompt": null true 0 . /*""".split(),
    *(b" ", b"\t", b"\r", b"\x1f", b"\xff", b"\x00", b"\xef\xbb\xbf", b"[" * 120),
]
OPTIONS = """n stop seed max_tokens logit_bias temperature top_p top_k bad_words logprobs repetition_stop ignore_eos
    min_tokens""".split()  # noqa: SIM905
ROLES = ["user", "system", "assistant", "tool"]
URLS = ["/v1/chat/completions", "/v1/completions"]
FIELDS = """role content text type body messages prompt tools stream response_format chat_template_kwargs
    tool_calls""".split()  # noqa: SIM905
NAMES = [*OPTIONS, *ROLES, *FIELDS]
ATOMS: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 1 << 63, 1.5, float("nan"), float("inf")),
    *("", "x", "{", "[]", '{"a": 1}', "\ud800"),
]
PARTS = re.split(
    r"\s{2,}",
    """{{ a }}  {{ b[0] }}  {{ d.k }}  {{ c }}  {{ a | upper }}  {{ a * 3 }}  {{ a ~ b }}  {{ a.__class__ }}
    {{ 9 ** 9 }}  {% for x in b %}  {% endfor %}  {% if a %}  {% else %}  {% endif %}  {% set a = a + a %}
    {{ range(99999) | list }}
    {% macro m(x) %}  {% endmacro %}  {{ m(a) }}  {{ b | join(a) }}  {{ a | replace('h', a) }}  {{ '%s' % a }}  {%  %}
    {{ d | tojson }}  {{ a.format(b) }}  {{ a | center(50) }}  {{  }}  {#  #}  text  {{ b | map('upper') | list }}
    {{ cycler }}  {{ namespace(x=1) }}  {{ a[::-1] }}  {{ -a }}  {{ a < b }}  {{ a in b }}
    {{ a | batch(2) | list }}""",
)
ROW = {"a": "hello", "b": ["x", "y"], "c": None, "d": {"k": 1}}


def mutated_line(rng: random.Random) -> bytes:
    line = bytearray(rng.choice(LINES))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(line) + 1)
        line[at : at + rng.choice((0, 0, 1, 3))] = rng.choice(PIECES) if rng.random() < 0.8 else rng.randbytes(2)
    return bytes(line.replace(b"\n", b" "))


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 3 or kind < 0.35:
        return rng.choice(ATOMS) if rng.random() < 0.5 else rng.choice(NAMES)
    if kind < 0.6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): value(rng, depth + 1) for _ in range(rng.randrange(5))}


def message(rng: random.Random) -> Any:
    return {"role": rng.choice(ROLES), "content": value(rng, 2)} if rng.random() < 0.8 else value(rng)


def fuzz_lines(rng: random.Random) -> int:
    """Lines parsed together are what each is alone, and what the reference says."""
    lines = [mutated_line(rng) for _ in range(rng.randrange(1, 24))]
    for line, together in zip(lines, parse_lines(lines).rows, strict=True):
        expected = Strict.parse(line)
        if isinstance(together, LineError):
            assert expected is None or together.code == "too_deep", (line, together.code, expected)
        else:
            assert together == expected == parse_line(line), (line, together, expected)
    return len(lines)


def fuzz_conversations(rng: random.Random) -> int:
    messages = [message(rng) for _ in range(rng.randrange(4))] if rng.random() < 0.8 else value(rng)
    try:
        for made in checked_messages(messages, rng.choice((None, "be brief"))):
            assert isinstance(made["role"], str)
            assert isinstance(made.get("content", ""), str)
    except PromptError as error:
        assert error.code
    body: Any = {rng.choice(NAMES): value(rng, 1) for _ in range(rng.randrange(5))} | {"messages": messages}
    line = {"custom_id": "x", "method": "POST", "url": rng.choice(URLS), "body": body}
    try:
        json.dumps(ask_of_batch_line(line).template_kwargs)
    except PromptError as error:
        assert error.code
    return 2


def fuzz_sampling(rng: random.Random) -> int:
    options = {rng.choice(OPTIONS): value(rng, 2) for _ in range(rng.randrange(4))}
    try:
        params = override_sampling(SamplingParams(), options)
        assert params.n >= 1
        assert params.max_tokens >= 1
        hash(params)
    except ConfigError as error:
        assert "sampling." in str(error)
    return 1


def fuzz_token_ids(rng: random.Random) -> int:
    """Ids that pass are a list of integers in range, the ones that came."""
    given = [rng.choice((0, 7, 99, 3.0, rng.choice(ATOMS), value(rng, 3))) for _ in range(rng.randrange(4))]
    came = rng.choice((given, value(rng), json.dumps(given), mutated_line(rng).decode("utf-8", "surrogateescape")))
    try:
        ids = checked_ids(ids_of_column(came, "prompt_token_ids"), 100)
        assert ids and all(type(token) is int and 0 <= token < 100 for token in ids)
        assert ids == (json.loads(came) if isinstance(came, str) else came)
    except PromptError as error:
        assert error.code in ("bad_token_ids", "no_tokens")
    return 1


def fuzz_templates(rng: random.Random) -> int:
    source = "".join(rng.choice(PARTS) for _ in range(rng.randrange(1, 8)))
    try:
        assert len(PromptTemplate(source, list(ROW)).render(ROW)) <= MAX_CHARS
    except (ConfigError, TemplateError) as error:
        assert str(error)
    return 1


# Chosen this often in a hundred rounds: compiling a template costs as much as hundreds of lines.
ROUNDS: list[tuple[int, Callable[[random.Random], int]]] = [
    (20, fuzz_lines), (40, fuzz_conversations), (25, fuzz_sampling), (10, fuzz_token_ids), (5, fuzz_templates),
]  # fmt: skip


def fuzz(cases: int, seconds: float, seed: int) -> Counter[str]:
    """Runs rounds until that many cases or seconds are over; the number of cases of each kind."""
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while counts.total() < cases and time.monotonic() < deadline:
        rng = random.Random(seed)
        (target,) = rng.choices([target for _, target in ROUNDS], [weight for weight, _ in ROUNDS])
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            counts[target.__name__] += target(rng)
        except BaseException as error:
            error.add_note(f"round --seed {seed} ({target.__name__})")
            raise
        finally:  # armed after the round it would end whatever runs then
            faulthandler.cancel_dump_traceback_later()
        seed += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = time.monotonic()
    counts = fuzz(asked.cases, asked.seconds, asked.seed)
    for name, number in sorted(counts.items()):
        sys.stdout.write(f"{name}: {number} cases\n")
    sys.stdout.write(f"{counts.total()} cases in {time.monotonic() - started:.0f} s, none failed\n")
    if counts.total() < asked.cases:
        sys.exit(f"only {counts.total()} of {asked.cases} cases in {asked.seconds:g} s")


if __name__ == "__main__":
    main()
