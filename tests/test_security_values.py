"""Secrets by their look: refused in any setting, from any source, and never repeated. The keys here are made up."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli.command import parse
from runner.cli.compose import compose
from runner.cli.secret_values import holds_secret
from runner.errors import ConfigError

GENERATE = ("job=generate", "input.path=rows.jsonl")
MIXED = (string.ascii_letters + string.digits) * 3
UPPER = string.ascii_uppercase + string.digits
HEADER = "-----BEGIN RSA PRIVATE KEY-----"

SECRETS = {
    "Hugging Face": "hf_" + MIXED[:34],
    "OpenAI": "sk-" + MIXED[:48],
    "OpenAI project": "sk-proj-" + MIXED[:40] + "_" + MIXED[:40],
    "Anthropic": "sk-ant-api03-" + MIXED[:60] + "-" + MIXED[:30],
    "AWS": "AKIA" + UPPER[4:20],
    "AWS session": "ASIA" + UPPER[8:24],
    "GitHub": "ghp_" + MIXED[:36],
    "GitHub fine-grained": "github_pat_" + MIXED[:22] + "_" + MIXED[:59],
    "GitLab": "glpat-" + MIXED[:20],
    "Google": "AIza" + MIXED[:35],
    "Slack": "xoxb-" + "1234567890-" * 2 + MIXED[:24],
    "a private key": f"{HEADER}\n{MIXED[:64]}\n",
    "a private key on one line": f"-----BEGIN PRIVATE KEY-----\\n{MIXED[:64]}",
}

HARMLESS = {
    "a model": "sk-learn-contrib/sk-learn-random-forest-classifier-2024-with-a-long-name-and-seeds",
    "a model of hf": "hf_models/hf_llama_3_8b_instruct_finetuned_on_some_task",
    "a folder of a hash": "/data/task-" + "0123456789abcdef" * 4,
    "a placeholder": "hf_" + "x" * 40,
    "a placeholder of OpenAI": "sk-" + "x" * 48,
    "the example of AWS": "AKIAIOSFODNN7EXAMPLE",
    "a longer word": "AKIA" + UPPER,
    "a revision": "0123456789abcdef0123456789abcdef01234567",
    "a question": "Which of these is a key: sk-..., hf_..., ghp_... or AKIA...?",
    "a public key": "-----BEGIN PUBLIC KEY-----",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_value_that_looks_like_a_secret_is_refused_and_not_repeated(name: str, tmp_path: Path) -> None:
    secret = SECRETS[name]
    for setting in ("model.path", "model.revision", "job.system_prompt", "output.dir", "+job.chat_template_kwargs.a"):
        with pytest.raises(ConfigError, match="the value looks like a token or a private key") as caught:
            compose([*GENERATE, f'{setting}="before {secret}"'])
        assert secret[4:] not in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).startswith(setting.lstrip("+"))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_merely_begins_like_one_is_none(name: str) -> None:
    for setting in ("model.path", "job.template", "job.system_prompt", "job.name"):
        assert not holds_secret(HARMLESS[name], setting)
    assert compose([*GENERATE, f'job.template="{HARMLESS[name]}"']).job.template == HARMLESS[name]


def test_the_first_line_of_a_private_key_may_stand_in_a_text_for_the_model() -> None:
    for setting in ("job.template", "job.system_prompt"):
        compose([*GENERATE, f'{setting}="Does {HEADER} begin a key?"'])
    assert compose([*GENERATE, f'sampling.bad_words=["{HEADER}"]']).sampling.bad_words == [HEADER]
    with pytest.raises(ConfigError, match=r"^model\.path: the value looks like"):
        compose([*GENERATE, f'model.path="{HEADER}"'])


@pytest.mark.parametrize(
    "argument",
    ["{}", "model={}", "model.{}=1", "+job.chat_template_kwargs.{}=1", "sampling.stop=[a,{}]", "model.path='{}", "~{}",
     "input.path=[a.jsonl,[{}]]", "launch.setup=['export HF_TOKEN={}']", "launch.chain=['job=judge model.path={}']"],
)  # fmt: skip
def test_a_secret_is_found_wherever_it_stands_in_an_argument(argument: str) -> None:
    secret = SECRETS["Hugging Face"]
    with pytest.raises(ConfigError, match="looks like a token") as caught:
        compose([*GENERATE, argument.format(secret)])
    assert secret not in str(caught.value)


@pytest.mark.parametrize("setting", ["system_prompt: {}", "chat_template_kwargs: {{a: [b, {{c: {}}}]}}",
                                     "chat_template_kwargs: {{{}: 1}}"])  # fmt: skip
def test_a_secret_in_a_preset_is_refused(setting: str, tmp_path: Path) -> None:
    secret = SECRETS["GitHub"]
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "own.yaml").write_text(f"name: own\n{setting.format(secret)}\n")
    with pytest.raises(ConfigError, match=r"^job\..*: the value looks like a token") as caught:
        parse([f"--config-dir={tmp_path}", "job=own", "input.path=rows.jsonl"])
    assert secret not in str(caught.value)


def test_a_run_with_a_secret_writes_nothing_and_exits_64(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    command = [sys.executable, "-m", "runner", *GENERATE, "engine=echo", f"job.system_prompt={SECRETS['OpenAI']}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)
    assert SECRETS["OpenAI"] not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
