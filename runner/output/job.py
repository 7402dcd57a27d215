"""The job record: what a folder's job is, frozen when the folder is made, and what may change after."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError, DamageError
from runner.output.columns import Columns
from runner.output.disk import Disk
from runner.output.layout import Layout
from runner.output.sealed import Broken, digest, seal, unseal

FORMAT_VERSION = 1
_SHOWN_CHARS = 60
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


@dataclass(frozen=True)
class JobRecord:
    """What `.runner/job.json` holds. ``inventory`` and ``command`` are the caller's, kept as they are.

    ``columns`` is for people. ``rerun`` is the one that has begun and not ended, ``reruns`` are those that ended.
    """

    name: str
    job_id: str
    fingerprint: dict[str, Any]
    data_schema: str
    error_schema: str
    rows_per_shard: int
    num_rows: int
    inventory: dict[str, Any] = field(default_factory=dict)
    source: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    error_names: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    command: dict[str, Any] = field(default_factory=dict)
    rerun: dict[str, Any] | None = None
    reruns: list[dict[str, Any]] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    def fingerprint_digest(self) -> str:
        return digest(self.fingerprint)


def columns_of(job: JobRecord) -> Columns:
    """The columns that the job's folder was made with."""
    return Columns(
        data=_unpack(job.data_schema),
        errors=_unpack(job.error_schema),
        source=tuple(job.source),
        names=job.names,
        error_names=job.error_names,
    )


def _pack(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode("ascii")


def _unpack(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def read_job(disk: Disk, layout: Layout) -> JobRecord | None:
    """The folder's job, None when it has none. Raises `DamageError` when the record is not whole."""
    if disk.size(layout.job) is None:
        return None
    try:
        record = unseal(disk.read(layout.job))
        if record["format_version"] != FORMAT_VERSION:
            raise ConfigError(
                f"output.dir: {layout.root} was written in format {record['format_version']}, this runner writes "
                f"{FORMAT_VERSION}; choose another output.dir"
            )
        return JobRecord(**record)
    except (Broken, KeyError, TypeError) as error:
        raise DamageError(
            f"output.dir: {layout.job}: damaged ({error}); restore it from a copy, or output.overwrite=true starts over"
        ) from error


def write_new_job(disk: Disk, layout: Layout, job: JobRecord) -> bool:
    """False when another runner was first."""
    return disk.create_once(layout.job, seal(asdict(job)))


def rewrite_job(disk: Disk, layout: Layout, job: JobRecord) -> None:
    """Durable on return."""
    disk.replace(layout.job, seal(asdict(job)), layout.hidden)
    disk.sync_dir(layout.hidden)


def normal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they come back from JSON, so that they compare equal after a restart."""
    return json.loads(json.dumps(dict(values), sort_keys=True, default=str))


def refuse_unknown(accept: Collection[str], asked: JobRecord, job: JobRecord | None) -> None:
    """Raises `ConfigError` for a name in ``accept`` that is recorded neither now nor in the folder's job."""
    known = asked.fingerprint.keys() | (job.fingerprint.keys() if job is not None else ())
    for name in accept:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "the refusal of a changed setting names it"
            raise ConfigError(f"resume.accept=[{name}]: no setting that changes the output has this name; {hint}")


def admit(
    job: JobRecord,
    spec: JobRecord,
    accept: Collection[str],
    growable: Collection[str],
    is_free: Callable[[str], bool] = lambda _: False,
) -> JobRecord:
    """The job as it goes on under the settings of ``spec``: ``job`` itself when nothing changed.

    A changed setting is refused unless ``accept`` names it; those in ``growable`` may change while the input
    only grows, and those that are free are not looked at. Raises `ConfigError` with every difference.
    """
    changes = {
        key: (job.fingerprint.get(key), spec.fingerprint.get(key))
        for key in sorted(job.fingerprint.keys() | spec.fingerprint.keys())
        if job.fingerprint.get(key) != spec.fingerprint.get(key) and not is_free(key)
    }
    grown = {key for key in changes if key in growable}
    refused = {key: pair for key, pair in changes.items() if key not in grown and key not in accept}
    if refused:
        raise ConfigError(_difference(refused))
    _refuse_other_shape(job, spec)
    if spec.num_rows != job.num_rows and not grown:
        raise ConfigError(
            f"input.path: {spec.num_rows} rows where this job began with {job.num_rows}; "
            "put the input back, or start over with output.overwrite=true"
        )
    accepted = {key: pair for key, pair in changes.items() if key not in grown}
    if spec.num_rows > job.num_rows:
        job = replace(
            job,
            num_rows=spec.num_rows,
            inventory=spec.inventory,
            command=spec.command,
            fingerprint={**job.fingerprint, **{key: spec.fingerprint.get(key) for key in grown}},
        )
    if accepted:
        log = [{"key": key, "old": old, "new": new} for key, (old, new) in accepted.items()]
        values = {key: spec.fingerprint.get(key) for key in accepted}
        job = replace(
            job,
            command=spec.command,
            fingerprint={**job.fingerprint, **values},
            accepted=[*job.accepted, *log],
        )
    return job


def _refuse_other_shape(job: JobRecord, spec: JobRecord) -> None:
    """What cannot be accepted: it would move rows between parts or mix schemas."""
    if job.rows_per_shard != spec.rows_per_shard:
        raise ConfigError(
            f"output.rows_per_shard: {job.rows_per_shard} -> {spec.rows_per_shard} would move rows between parts; "
            "put it back, or start over with output.overwrite=true"
        )
    if (job.data_schema, job.error_schema) != (spec.data_schema, spec.error_schema):
        lost, new = (set(a) - set(b) for a, b in ((job.columns, spec.columns), (spec.columns, job.columns)))
        raise ConfigError(
            f"the output's columns changed: gone {sorted(lost)}, new {sorted(new)}; "
            "put them back, or start over with output.overwrite=true"
        )


def _difference(changes: Mapping[str, tuple[Any, Any]]) -> str:
    shown = "; ".join(f"{key}: {_show(old)} -> {_show(new)}" for key, (old, new) in changes.items())
    return (
        f"settings that change the output are not those this job began with: {shown}. Put them back, "
        f"accept them with resume.accept=[{','.join(changes)}], or start over with output.overwrite=true"
    )


def _show(value: Any) -> str:
    """As JSON, short: of a hash the beginning, and of a long text too, with its quotes."""
    text = _HASH.sub(r"\1...", json.dumps(value, ensure_ascii=False))
    if len(text) <= _SHOWN_CHARS:
        return text
    return text[:_SHOWN_CHARS] + ('..."' if isinstance(value, str) else "...")


def job_record(
    name: str,
    job_id: str,
    fingerprint: Mapping[str, Any],
    columns: Columns,
    rows_per_shard: int,
    num_rows: int,
    inventory: Mapping[str, Any],
    command: Mapping[str, Any],
) -> JobRecord:
    """The record of a new job."""
    return JobRecord(
        name=name,
        job_id=job_id,
        fingerprint=normal(fingerprint),
        data_schema=_pack(columns.data),
        error_schema=_pack(columns.errors),
        rows_per_shard=rows_per_shard,
        num_rows=num_rows,
        inventory=normal(inventory),
        command=normal(command),
        source=list(columns.source),
        names=dict(columns.names),
        error_names=dict(columns.error_names),
        columns=[f"{field.name}: {field.type}" for field in columns.data],
    )
