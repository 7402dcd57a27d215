"""Attacks: what a prompt file, a template, a preset, a dataset or a model folder might try, and what comes of it.

Each test brings the attack itself. The template's own attacks stand in tests/input/test_input_template.py.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import save_tiny_model
from tiny_text import save_tokenizer

from runner.cli.command import parse
from runner.cli.compose import compose
from runner.config import InputConfig, JobConfig, ModelSettings
from runner.errors import ConfigError
from runner.input import InventoryReader, Renderer, build_inventory
from runner.input.template import PromptTemplate, TemplateError
from runner.models import resolve_model
from runner.text import TextTokenizer, override_sampling
from runner.types import RowError, SamplingParams, SourceRow

ROOT = Path(__file__).resolve().parents[1]
SECRET = "hf_thisIsASecretThatMustNotBeWritten"
GENERATE = ("job=generate", "input.path=rows.jsonl")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self._mark),))


@pytest.fixture
def mark(tmp_path: Path) -> Any:
    """A folder that exists only once an attack has run."""
    yield tmp_path / "attacked"
    assert not (tmp_path / "attacked").exists()


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner", "job=generate", "engine=echo", "input.path=rows.jsonl", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_the_bomb_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "attacked")))
    assert (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_never_opened(tmp_path: Path, mark: Path, name: str) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ConfigError, match="pickled"):
        resolve_model(ModelSettings(path=str(tmp_path / "model")))


def test_pickled_weights_beside_safe_ones_are_passed_over(tmp_path: Path, mark: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    done = run(tmp_path, "engine=transformers", "model.path=model", "model.device=cpu", "sampling.max_tokens=2")
    assert done.returncode == 0, done.stderr


def test_code_in_a_model_folder_is_not_run(tmp_path: Path, mark: Path) -> None:
    folder = save_tokenizer(tmp_path / "model")
    code = f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    config["tokenizer_class"] = "Evil"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    try:
        TextTokenizer(folder)
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
        "{{ messages.append(1) }}{{ self.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_models_chat_template_is_sandboxed(tmp_path: Path, mark: Path, template: str) -> None:
    tokenizer = TextTokenizer(save_tokenizer(tmp_path / "model", template.replace("MARK", str(mark))))
    renderer = Renderer(
        object(),  # type: ignore[arg-type]
        tokenizer,
        JobConfig(name="x", template="{{ a }}"),
        InputConfig(path="x"),
        SamplingParams(),
        None,
        ["a"],
    )
    ((made,),) = renderer.render([SourceRow(0, {"a": "b"})])
    assert isinstance(made, RowError) and made.code == "chat_template"


@pytest.mark.parametrize(
    "values",
    [
        {"a": "{{ ''.__class__ }}"},
        {"a": "{% include '/etc/passwd' %}"},
        {"a": "{{ cycler.__init__.__globals__.os.system('id') }}"},
    ],
)
def test_a_row_is_text_and_never_a_template(values: dict[str, Any]) -> None:
    assert PromptTemplate("{{ a }}", ["a"]).render(values) == values["a"]


@pytest.mark.parametrize("template", ["{% include a %}", "{% import a as x %}", "{% extends a %}", "{{ open(a) }}"])
def test_a_row_cannot_name_a_file_to_read(tmp_path: Path, template: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises((TemplateError, ConfigError)) as caught:
        PromptTemplate(template, ["a"]).render({"a": str(tmp_path / "secret")})
    assert SECRET not in str(caught.value)


def test_paths_in_rows_and_names_stay_text(tmp_path: Path) -> None:
    """Columns named as paths, ids that climb: nothing appears outside of the output folder."""
    rows = [{"prompt": "/etc/passwd", "../../up": "x", "id": "../../../up", "file": "/etc/passwd", "row_path": "~"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    before = set(tmp_path.parent.rglob("*"))
    done = run(tmp_path, "output.dir=out", "sampling.temperature=0")
    assert done.returncode == 0, done.stderr
    outside = {
        path for path in set(tmp_path.parent.rglob("*")) - before if (tmp_path / "out") not in (path, *path.parents)
    }
    assert outside == set()
    assert b"root:" not in b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["../up", "..", "/tmp/up", "a/../../up", "a\\b", "a\0b", ""])
def test_a_job_name_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(ConfigError):
        compose([*GENERATE, f"job.name='{name}'"])


@pytest.mark.parametrize(
    "sampling", [{"_target_": "os.system"}, {"__class__": 1}, {"stop": [{"_target_": "os.system"}]}, {"seed": "1; id"}]
)
def test_sampling_params_of_a_row_are_values_only(sampling: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        override_sampling(SamplingParams(), sampling)


PRESETS = [
    "name: x\n_target_: os.system\ncommand: id\n",
    "name: x\nchat_template_kwargs:\n  a:\n    - {_target_: os.system}\n",
    f"name: x\nchat_template_kwargs:\n  api_key: {SECRET}\n",
    "name: x\nsystem_prompt: ${oc.env:HF_TOKEN}\n",
    "name: x\nsystem_prompt: 'a ${ oc.env:HF_TOKEN,none}'\n",
    "name: x\nchat_template_kwargs:\n  a: ['${oc.decode:${oc.env:HF_TOKEN}}']\n",
    "name: !!python/object/apply:os.system ['mkdir MARK']\n",
    "name: x\nsystem_prompt: !!python/object/new:os.mkdir [MARK]\n",
]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_hostile_preset_is_refused(tmp_path: Path, mark: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "evil.yaml").write_text(preset.replace("MARK", str(mark)))
    with pytest.raises(ConfigError) as caught:
        parse([f"--config-dir={tmp_path}", "job=evil", "input.path=rows.jsonl"])
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model.token", "hf_token", "model.api_key", "output.password", "job.secret"])
def test_a_secret_in_a_setting_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*GENERATE, f"{key}={SECRET}"])
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address", [f"s3://key:{SECRET}@bucket/a.jsonl", f"https://host/a.jsonl?X-Amz-Signature={SECRET}",
                f"https://host/a.parquet?token={SECRET}"]
)  # fmt: skip
def test_a_secret_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="holds a secret") as caught:
        build_inventory(InputConfig(path=address))
    assert SECRET not in str(caught.value)


def test_a_secret_of_the_environment_is_written_nowhere(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{bad\n')
    done = run(tmp_path, "output.dir=out", HF_TOKEN=SECRET, AWS_SECRET_ACCESS_KEY=SECRET)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def pickled_extension(mark: Path) -> pa.Schema:
    """A column that older Arrow builds unpickled on sight."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(mark)),
    }
    return pa.schema([pa.field("prompt", pa.string(), metadata=metadata)])


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_a_pickle_in_a_schema_is_not_opened(tmp_path: Path, mark: Path, name: str) -> None:
    table = pa.table({"prompt": ["x"]}).cast(pickled_extension(mark))
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    inventory = build_inventory(InputConfig(path=str(tmp_path / name)))
    (row,) = InventoryReader(inventory).read(0, 1)
    assert isinstance(row, SourceRow) and row.values == {"prompt": "x"}


def test_a_loading_script_in_a_dataset_folder_is_not_run(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "data.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n')
    try:
        inventory = build_inventory(InputConfig(path=f"dataset:{folder}"))
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert inventory.num_rows == 1
