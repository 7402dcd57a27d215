"""Models from the hub: what is downloaded, and the one line that a failure becomes."""

from __future__ import annotations

import re
from pathlib import Path

from runner.config import ModelSettings
from runner.errors import ConfigError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_TEXT_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_UNWANTED = ["*/*"]  # subfolders hold copies in other formats


def download(key: str, hub_id: str, revision: str | None, *, weights: bool = True, code: bool = False) -> Path:
    """The local folder of a hub repository at a revision; from the local hub cache when there is no network.

    ``key`` is the setting that named it, for the one line of the ConfigError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The HTTP library's own base class; the library's name changes between releases of huggingface_hub.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # isort: skip

    patterns = [*_TEXT_FILES, *(["*.safetensors"] if weights else []), *(["*.py"] if code else [])]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=_UNWANTED))
    except (HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(f"{key}={hub_id}: {_answer_reason(error, revision)}") from error
    except (HTTPError, OSError) as error:
        raise ConfigError(
            f"{key}={hub_id}: no such folder here, and the hub cannot be reached ({type(error).__name__}); download it "
            "where there is a network and give the folder, or use smollm2-135m-instruct"
        ) from error


def _answer_reason(error: Exception, revision: str | None) -> str:
    """What the hub answered, with the fix. The first class that fits wins: gated is a kind of not found."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reasons = {
        GatedRepoError: "it is gated: accept its terms on the hub and log in with `hf auth login`",
        RevisionNotFoundError: f"it has no revision {revision}; set model.revision to a branch, tag or commit of it",
        RepositoryNotFoundError: "no such folder here, and no such repository on the hub that you may see",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return str(error).splitlines()[0]


def require_pinned(settings: ModelSettings) -> None:
    """Code from a repository may run only at a full commit hash, which nobody can move."""
    if not _COMMIT.fullmatch(settings.revision or ""):
        raise ConfigError(
            f"model.trust_remote_code=true needs model.revision to be a full commit hash (40 hex digits), "
            f"not {settings.revision}: a branch can change under you"
        )
