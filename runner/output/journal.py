"""The journal: finished rows on their way to a part, so that a kill costs seconds of work and not a range.

An Arrow IPC stream; the checksum of each batch stands in its custom metadata. Each attempt writes files of
its own and never appends to another's, so a torn tail is always the end of a file.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from runner.output.disk import Disk

_log = logging.getLogger(__name__)
_CHECKSUM = b"checksum"


class _Pieces:
    """A file object that keeps what Arrow writes until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Arrow asks for it; there is nothing below to flush."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class JournalWriter:
    """One journal file. ``ranges`` are those whose rows it holds and that are not committed yet."""

    def __init__(self, disk: Disk, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.ranges: set[int] = set()
        self.size = 0
        self.unsynced = 0
        self._disk = disk
        self._batches = 0
        self._pieces = _Pieces()
        self._stream = pa.ipc.new_stream(pa.PythonFile(self._pieces, mode="w"), schema)
        self._fd = disk.create(path, exclusive=True)
        disk.sync_dir(path.parent)

    def append(self, batch: pa.RecordBatch) -> None:
        """Hands a batch to the kernel: it survives a kill now and a power cut after `sync`."""
        self._stream.write_batch(batch, custom_metadata={_CHECKSUM: _checksum(batch, self._batches)})
        data = self._pieces.take()
        self._disk.write(self._fd, self.path, data)
        self._batches += 1
        self.size += len(data)
        self.unsynced += len(data)

    def sync(self) -> None:
        if self.unsynced:
            self._disk.sync(self._fd, self.path)
            self.unsynced = 0

    def close(self) -> None:
        self._disk.close(self._fd, self.path)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def read_journal(disk: Disk, path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of a journal up to the first that is not whole; the rest of the file is work to redo."""
    data = disk.read_if_there(path)
    if data is None:  # another partition's, covered and dropped since it was listed
        return
    try:
        stream = pa.ipc.open_stream(pa.py_buffer(data))
        if not stream.schema.equals(schema, check_metadata=True):
            _log.warning("%s was written by another job or version; its rows are done again", path)
            return
        yield from _whole_batches(stream)
    except StopIteration:
        return
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        _log.warning("%s ends in a damaged batch (%s); rows after it are done again", path, error)


def _whole_batches(stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    position = 0
    while True:
        try:
            batch, metadata = stream.read_next_batch_with_custom_metadata()
        except StopIteration:
            return
        # Before any other use: without it, a flipped offset makes Arrow read outside its buffers.
        batch.validate(full=True)
        if metadata is None or metadata.get(_CHECKSUM) != _checksum(batch, position):
            raise ValueError(f"checksum of batch {position}")
        yield batch
        position += 1


def _checksum(batch: pa.RecordBatch, position: int) -> bytes:
    """Over the batch as Arrow serializes it, and where it stands in the file."""
    state = hashlib.sha256(b"%d:" % position)
    state.update(batch.serialize())
    return state.hexdigest().encode("ascii")
