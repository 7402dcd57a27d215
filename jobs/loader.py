"""From the settings of a job to the job: registered ones by name, the user's own by file."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from runner.config import InputConfig, JobConfig
from runner.errors import ConfigError, told
from runner.types import Completion, Job, Refused

REGISTERED: Mapping[str, str] = MappingProxyType(
    {
        "generate": "jobs.generate",
        "synthetic_data": "jobs.synthetic_data",
    }
)
"""job.kind -> module; a module is imported only when its job is asked for."""

_MODULE_NAME = "job_module"


@dataclass(slots=True)
class LoadedJob:
    """A job from either source, checked. ``code`` is the SHA-256 of its source file, for the fingerprint.

    The hash covers that one file, not what it imports.
    """

    origin: str
    code: str
    columns: dict[str, str]
    ask: Callable[[dict[str, Any]], Any]
    read: Callable[[dict[str, Any], Completion], dict[str, Any] | None]

    def prompt(self, row: dict[str, Any]) -> Any:
        with _exits_are_errors():
            return self.ask(row)

    def parse(self, row: dict[str, Any], completion: Completion) -> dict[str, Any] | None:
        """One value per declared column, null where the job gave none; None drops the sample.

        Raises Refused when the job gives what cannot be written, such as a value that no column declares: the schema
        is fixed before the run. The job reads copies: what it does to the row or the completion must not reach the
        output.
        """
        with _exits_are_errors():
            own = replace(completion, messages=copy.deepcopy(completion.messages))
            values = self.read(copy.deepcopy(row), own)
        if values is None:
            return None
        if not isinstance(values, dict):
            reason = f"{self.origin}: parse returned {type(values).__name__}; return a dict or None"
            raise Refused(reason, code="parse_type")
        if extra := values.keys() - self.columns.keys():
            name = sorted(map(str, extra))[0]
            reason = f'{self.origin}: parse returned {name!r}; declare it: columns = {{"{name}": "string"}}'
            raise Refused(reason, code="parse_column")
        return {name: values.get(name) for name in self.columns}


@contextmanager
def _exits_are_errors() -> Iterator[None]:
    """A job that calls sys.exit has failed at this row: it does not decide how the run ends.

    The same goes for the other errors that stand beside Exception, such as asyncio's CancelledError.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise RuntimeError(f"the job called sys.exit({error.code!r})") from error
    except BaseException as error:
        raise RuntimeError(f"the job raised {told(error)}") from error


def load_job(config: JobConfig, rows: InputConfig | None = None) -> Job:
    """Loads ``job.module`` where given, else the registered ``job.kind``.

    A class ``Job`` that has ``from_config(InputConfig)`` is made by it, else without arguments.
    With a template the file needs no ``prompt``: the template gives it.
    Raises ConfigError when the kind is unknown, or the file is missing, does not load or lacks a function.
    """
    if config.module is None:
        origin, module, source = _registered(config.kind)
    else:
        origin, module, source = _from_file(config.module)
    has_template = config.template is not None or config.template_file is not None
    members = _members(origin, module, rows or InputConfig())
    return _checked(origin, hashlib.sha256(source).hexdigest(), members, needs_prompt=not has_template)


def _registered(kind: str) -> tuple[str, ModuleType, bytes]:
    if kind not in REGISTERED:
        near = difflib.get_close_matches(kind, REGISTERED, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(REGISTERED)}, or set job.module"
        raise ConfigError(f"job.kind={kind}: no such job; {hint}")
    module = importlib.import_module(REGISTERED[kind])
    return f"job.kind={kind}", module, Path(str(module.__file__)).read_bytes()


def _from_file(name: str) -> tuple[str, ModuleType, bytes]:
    """Runs the user's file; what is hashed is exactly what ran."""
    origin, path = f"job.module={name}", Path(name).expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        is_absent = isinstance(error, FileNotFoundError | IsADirectoryError)
        reason = "no such file" if is_absent else error.strerror
        raise ConfigError(
            f"{origin}: {reason} ({path}); give the path of a Python file, from the current folder"
        ) from None
    module = ModuleType(_MODULE_NAME)
    module.__file__ = str(path)
    sys.modules[_MODULE_NAME] = module  # dataclasses and pickle look a class's module up here
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the file may import its neighbours, as a script may; it shadows nothing
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise ConfigError(f"{origin}: line {error.lineno}: syntax error: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{origin}: {_where(error, path)}{told(error)}") from error
    return origin, module, source


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: " if lines else ""


def _members(origin: str, module: ModuleType, rows: InputConfig) -> object:
    """The object that holds prompt, parse and columns: the module itself, or its Job."""
    job_class = getattr(module, "Job", None)
    # A file that imports runner.types.Job for its annotations has not defined a class of its own.
    if not isinstance(job_class, type) or job_class.__module__ != module.__name__:
        return module
    make = getattr(job_class, "from_config", None)
    try:
        return make(rows) if make else job_class()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{origin}: Job() failed: {told(error)}") from error


def _checked(origin: str, code: str, members: object, needs_prompt: bool) -> LoadedJob:
    ask = _function(origin, members, "prompt", "prompt(row)")
    read = _function(origin, members, "parse", "parse(row, completion)")
    if ask is None and needs_prompt:
        raise ConfigError(f"{origin}: defines no prompt(row); add it, or set job.template")
    columns = getattr(members, "columns", {})
    if not isinstance(columns, dict) or not all(isinstance(v, str) for pair in columns.items() for v in pair):
        raise ConfigError(f'{origin}: columns={columns!r}: write names and types, e.g. {{"answer": "string"}}')
    if columns and read is None:
        raise ConfigError(f"{origin}: declares columns but no parse(row, completion) that fills them; add it")
    return LoadedJob(origin, code, dict(columns), ask or _from_template, read or _nothing)


def _function(origin: str, members: object, name: str, signature: str) -> Callable[..., Any] | None:
    function = getattr(members, name, None)
    if function is not None and not callable(function):
        raise ConfigError(f"{origin}: {name} is {type(function).__name__}; make it a function {signature}")
    return function


def _from_template(row: dict[str, Any]) -> Any:
    raise AssertionError("a job with a template is never asked for its prompt")


def _nothing(row: dict[str, Any], completion: Completion) -> dict[str, Any]:
    return {}
