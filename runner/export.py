"""`python -m runner.export DIR --to parquet|jsonl [--out FILE_OR_DIR]`: the data of a run as one file.

Each part is compared with its commit as it is read, so that no damage is carried over; one part at a time is in
memory. In JSONL, bytes become base64 text, and NaN and the infinities null: JSON has none of them.
"""

from __future__ import annotations

import argparse
import base64
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from runner.cli.outcome import exit_code_of, help_code, wants_help
from runner.errors import ConfigError, DamageError, ExitCode, StorageError
from runner.output.commits import Commit
from runner.output.folder import Folder
from runner.output.layout import DATA
from runner.output.ranges import bounds, is_covered, num_ranges
from runner.output.shards import check_part
from runner.output.verification import open_idle
from runner.output.whole_file import whole_or_nothing

_log = logging.getLogger("runner.export")
_BATCH_ROWS = 1024


class TableWriter(Protocol):
    """Writes tables of one schema to a file, one after another."""

    def write_table(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One object a line."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("wb")

    def write_table(self, table: pa.Table) -> None:
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            lines = (orjson.dumps(row, default=_as_text, option=orjson.OPT_APPEND_NEWLINE) for row in batch.to_pylist())
            self._file.writelines(lines)

    def close(self) -> None:
        self._file.close()


def _as_text(value: Any) -> str:
    """What JSON has no type for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _open_parquet(path: Path, schema: pa.Schema) -> TableWriter:
    try:
        return pq.ParquetWriter(path, schema, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--to parquet: it cannot hold these columns ({reason}); use --to jsonl") from None


WRITERS: Mapping[str, Callable[[Path, pa.Schema], TableWriter]] = MappingProxyType(
    {"parquet": _open_parquet, "jsonl": JsonlWriter}
)


@dataclass(frozen=True)
class Exported:
    """What was written, and in words what was not."""

    path: Path
    num_rows: int
    left_out: tuple[str, ...]


def export(directory: str | Path, kind: str, out: str | Path | None = None) -> Exported:
    """Writes the data of an output folder to one file, in the order of the rows; the file appears whole or not at all.

    Raises ConfigError for a folder that is none or a file that is there already, LockedError while a run is active,
    DamageError for a part that is not what was committed, StorageError when the disk refuses.
    """
    if kind not in WRITERS:
        raise ConfigError(f"--to {kind}: no such format; choose {' or '.join(WRITERS)}")
    folder = open_idle(directory)
    target = _target(folder, kind, out)
    folder.load_commits()
    commits = [commit for _, commit in sorted(folder.commits.items()) if not commit.is_tombstone]
    left_out = tuple(_left_out(folder, commits))
    num_rows = 0
    try:
        with whole_or_nothing(target) as path:
            writer = WRITERS[kind](path, folder.columns.data)
            try:
                for commit in commits:
                    table = _part(folder, commit)
                    writer.write_table(table)
                    num_rows += table.num_rows
            finally:
                writer.close()
    except OSError as error:
        raise StorageError(f"--out={target}: {error.strerror or error}; run again where there is space") from error
    return Exported(target, num_rows, left_out)


def _target(folder: Folder, kind: str, out: str | Path | None) -> Path:
    root = folder.layout.root.resolve()
    target = Path(out).expanduser().resolve() if out is not None else root.parent
    if target.is_dir():
        target /= f"{root.name}.{kind}"
    if target.is_relative_to(root):
        raise ConfigError(
            f"--out={target} lies in the output folder, where loaders would read it; choose another place"
        )
    if target.exists():
        raise ConfigError(f"--out={target} is there already; remove it or name another file")
    if not target.parent.is_dir():
        raise ConfigError(f"--out={target}: there is no folder {target.parent}; make it first")
    return target


def _part(folder: Folder, commit: Commit) -> pa.Table:
    """The rows of a commit, as they were committed."""
    assert commit.data is not None
    path = folder.layout.part(DATA, commit.index)
    try:
        if folder.disk.size(path) is None:
            raise ValueError("it is missing, or its run was killed before it could publish it")
        return check_part(folder.disk.read(path), commit.data, folder.columns.data)
    except ValueError as error:
        raise DamageError(
            f"{path}: {error}; run python -m runner.repair {folder.layout.root} and then the job again"
        ) from None


def _left_out(folder: Folder, commits: list[Commit]) -> Iterator[str]:
    job = folder.job
    done = {commit.index for commit in commits if is_covered(commit, bounds(job, commit.index, job.num_rows)[1])}
    num_left = num_ranges(job, job.num_rows) - len(done)
    if num_left and folder.disk.size(folder.layout.success) is not None:
        raise DamageError(
            f"{folder.layout.root}: the job is marked as done, and {num_left} ranges have no commit; "
            f"run python -m runner.repair {folder.layout.root} and then the job again"
        )
    if num_left:
        yield f"{num_left} of {num_ranges(job, job.num_rows)} ranges are not done; run the job to go on"
    totals = folder.totals()
    if totals.failed_rows:
        yield f"{totals.failed_rows} rows have errors; they stay in errors/"
    if totals.dropped:
        yield f"{totals.dropped} samples were dropped by the job"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help says more")


_USAGE = """\
Writes the data of a run as one file, as far as it is done: rows in their order, every part compared with its commit.

  python -m runner.export DIR --to FORMAT [--out FILE_OR_DIR]

  --to FORMAT         parquet or jsonl
  --out FILE_OR_DIR   default: DIR.parquet or DIR.jsonl, beside the folder; a file that is there is never replaced

Exit codes: 0 written, 64 no output folder or a bad argument, 65 damaged, 73 a run is active, 74 the disk refused.
"""


def main(arguments: list[str]) -> int:
    """0 when written, 64 for a wrong folder or argument, 65 with the damage named, 73 while a run is active, 74 I/O."""
    if wants_help(arguments):
        sys.stdout.write(_USAGE)
        return help_code(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return exit_code_of(lambda: _export(arguments))


def _export(arguments: list[str]) -> int:
    asked = _parse(arguments)
    exported = export(asked.directory, asked.to, asked.out)
    for note in exported.left_out:
        _log.info("left out: %s", note)
    _log.info("%s: %d rows", exported.path, exported.num_rows)
    return ExitCode.DONE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--to", required=True)
    parser.add_argument("--out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
