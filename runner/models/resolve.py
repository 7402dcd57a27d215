"""From ``model.path`` to a local folder: an embedded model, a GGUF file, a folder or a hub id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from runner.config import LoadFormat, ModelSettings
from runner.errors import ConfigError
from runner.models.cache import converted_folder
from runner.models.embedded import EMBEDDED, embedded_file
from runner.models.hub import HUB_ID, download, require_pinned
from runner.models.identity import content_hash, files_identity, model_files

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class ModelFiles:
    """A model on the local disk. ``config`` and ``generation_config`` are the JSON files as they stand.

    ``identity`` changes whenever anything that can change the output does; `runner.models.identity` says what it
    proves. ``adapter`` is the folder of a LoRA adapter to merge.
    """

    name: str
    folder: Path
    identity: str
    config: dict[str, Any]
    generation_config: dict[str, Any]
    adapter: Path | None = None

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of ``config`` that describes the language model."""
        return self.config.get("text_config") or self.config

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: generation_config.json's, config.json's without one; never the tokenizer's."""
        for values in (self.generation_config, self.config, self.text_config):
            ids = values.get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
        return ()

    @property
    def context_length(self) -> int | None:
        """Longest prompt + answer that the model was made for, in tokens; None where config.json does not say."""
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if name in self.text_config:
                return int(self.text_config[name])
        return None


def resolve_model(settings: ModelSettings) -> ModelFiles:
    """Finds the model of ``settings.path`` on the disk, downloading or converting it where needed.

    Raises ConfigError when there is no such model or it is not allowed to load: pickled weights, missing shards,
    code of its own without a pinned revision.
    """
    folder, gguf_file = _locate(settings)
    dummy = settings.load_format is LoadFormat.dummy
    config = _read_json(folder / "config.json", settings)
    if not dummy and gguf_file is None:
        _check_weights(folder, settings)
    _check_code(config, settings)
    adapter = _locate_adapter(settings)
    return ModelFiles(
        name=settings.path,
        folder=folder,
        identity=_identity(folder, gguf_file, adapter, dummy),
        config=config,
        generation_config=_read_json(folder / "generation_config.json", settings, optional=True),
        adapter=adapter,
    )


def _locate(settings: ModelSettings) -> tuple[Path, Path | None]:
    """The model's folder, and the GGUF file that it was converted from."""
    path = Path(settings.path).expanduser()
    if settings.path in EMBEDDED:
        gguf_file = embedded_file(settings.path)
        return converted_folder(gguf_file), gguf_file
    if path.is_dir():
        return path, None
    if path.is_file():
        if path.suffix == ".gguf":
            return converted_folder(path), path
        raise ConfigError(
            f"model.path={settings.path} is a single file; give its folder ({path.parent}) or a .gguf file"
        )
    if _looks_local(settings.path) or not HUB_ID.fullmatch(settings.path):
        raise ConfigError(_not_found(settings.path, path))
    if settings.trust_remote_code:
        require_pinned(settings)
    weights = settings.load_format is not LoadFormat.dummy
    folder = download("model.path", settings.path, settings.revision, weights=weights, code=settings.trust_remote_code)
    return folder, None


def _looks_local(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text.endswith(".gguf")


def _not_found(text: str, path: Path) -> str:
    beside = {item.name: str(path.parent / item.name) for item in path.parent.iterdir()} if path.parent.is_dir() else {}
    near = [beside[name] for name in get_close_matches(path.name, beside, n=3, cutoff=0.6)]
    near += get_close_matches(text, EMBEDDED, n=1, cutoff=0.6)
    other = "check the spelling" if _looks_local(text) else f"try {next(iter(EMBEDDED))}, which needs no network"
    hint = f"did you mean {' or '.join(near)}?" if near else other
    return f"model.path={text}: no such file or folder, and not a hub id (owner/name); {hint}"


def _locate_adapter(settings: ModelSettings) -> Path | None:
    if settings.adapter is None:
        return None
    path = Path(settings.adapter).expanduser()
    if not path.is_dir():
        if _looks_local(settings.adapter) or not HUB_ID.fullmatch(settings.adapter):
            raise ConfigError(f"model.adapter={settings.adapter}: no such folder, and not a hub id (owner/name)")
        path = download("model.adapter", settings.adapter, None)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (path / name).is_file():
            raise ConfigError(f"model.adapter={settings.adapter} has no {name}; save the LoRA adapter with peft")
    return path


def _read_json(file: Path, settings: ModelSettings, optional: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise ConfigError(f"model.path={settings.path} has no {file.name}{_folder_hint(file.parent)}") from error
    except ValueError as error:
        raise ConfigError(f"model.path={settings.path}: {file.name} is not JSON ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise ConfigError(f"model.path={settings.path}: {file.name} is not a JSON object; copy it again")
    return value


def _folder_hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "; it is a LoRA adapter: name it in model.adapter and its base model in model.path"
    gguf_files = sorted(folder.glob("*.gguf"))
    return (
        f"; name the file: model.path={gguf_files[0]}" if gguf_files else "; give a folder that transformers can load"
    )


def _check_weights(folder: Path, settings: ModelSettings) -> None:
    """Only safetensors, and all of them: a pickle runs code when it is opened."""
    found = {file.name for file in folder.iterdir()}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(set(_read_json(index, settings).get("weight_map", {}).values()) - found)
        if missing:
            raise ConfigError(
                f"model.path={settings.path}: {len(missing)} weight files are missing, the first {missing[0]}; "
                "finish the download or copy"
            )
        return
    if any(name.endswith(".safetensors") for name in found):
        return
    if any(Path(name).suffix in _PICKLED for name in found):
        raise ConfigError(
            f"model.path={settings.path} has only pickled weights, which can run code when opened; "
            "convert them to safetensors or choose another revision"
        )
    raise ConfigError(
        f"model.path={settings.path} has no *.safetensors weights, and pickled ones are not loaded; "
        "for random weights set model.load_format=dummy"
    )


def _check_code(config: dict[str, Any], settings: ModelSettings) -> None:
    """A folder's own code is fixed by the model's identity, a repository's by its commit; code elsewhere by nothing."""
    if not settings.trust_remote_code:
        return
    elsewhere = [name for name in config.get("auto_map", {}).values() if "--" in str(name)]
    if elsewhere:
        raise ConfigError(
            f"model.trust_remote_code=true: {settings.path} takes its code from another repository ({elsewhere[0]}), "
            "which no revision pins; copy the code into the model's folder"
        )


def _identity(folder: Path, gguf_file: Path | None, adapter: Path | None, dummy: bool) -> str:
    """A converted model is known by its source, so that another release's conversion is still the same model."""
    if gguf_file is not None:
        identity = f"gguf-sha256:{content_hash(gguf_file)}"
    elif dummy:
        identity = "dummy-" + files_identity(file for file in model_files(folder) if file.suffix != ".safetensors")
    else:
        identity = files_identity(model_files(folder))
    return identity if adapter is None else f"{identity}+adapter-{files_identity(model_files(adapter))}"
