"""The disk refuses: full, over quota, broken, read-only, a file too large. Never a success, always resumable."""

from __future__ import annotations

import errno
import os
import resource
import subprocess

import pytest
from fault_checker import check_readable, check_redo, check_whole
from fault_driver import run
from faulty_disk import CountingDisk, RefusingDisk
from tiny_job import result_of, run_job, tiny_spec

from runner.errors import ExitCode, StorageError
from runner.output import Output
from runner.output.disk import Disk

CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)


def refuse_at(path, reference, at, code, **options):
    result = run(path, make_disk=RefusingDisk, disk_arguments={"at": at, "errno": code, **options})
    assert result in (ExitCode.DONE, ExitCode.IO)
    check_readable(path, reference)
    if result == ExitCode.IO:
        message = path.with_name(f"{path.name}.error").read_text()
        assert os.strerror(code) in message and str(path.parent) in message and "\n" not in message
    return result


def finish(path, reference):
    assert run(path) == ExitCode.DONE
    check_whole(path, reference)
    check_redo(path)


def test_refused_at_some_calls(tmp_path, reference):
    for at in range(2, 130, 9):
        path = tmp_path / f"out{at}"
        refuse_at(path, reference, at, CODES[at % len(CODES)], for_good=at % 2 == 0)
        finish(path, reference)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_refused_at_every_call(tmp_path, reference, code, for_good):
    for at in range(1, 400):
        path = tmp_path / f"out{at}"
        result = refuse_at(path, reference, at, code, for_good=for_good)
        finish(path, reference)
        if result == ExitCode.DONE:
            break
    assert at > 100


class NoSecondSync(RefusingDisk):
    """Fails one sync and notes every later call that would treat what it covered as durable."""

    def reached(self, number):
        super().reached(number)
        assert number < self._at or self.calls[-1][0] in ("unlink", "remove_dir"), self.calls[self._at - 1 :]


def test_a_failed_sync_is_never_retried(tmp_path):
    counting = CountingDisk()
    run_job_on(tmp_path / "counted", counting)
    syncs = [number for number, (call, _) in enumerate(counting.calls, 1) if call in ("sync", "sync_dir")]
    assert len(syncs) > 40
    for at in syncs:
        with pytest.raises(StorageError, match="Input/output error"):
            run_job_on(tmp_path / f"out{at}", NoSecondSync(at, errno.EIO))


def run_job_on(path, disk):
    with Output.open(path, tiny_spec(), disk) as output:
        while (item := output.take_range()) is not None:
            for row in range(item.start, item.stop):
                output.write(result_of(row))
        output.finish()


def test_the_error_of_the_writer_comes_out_of_the_next_call(tmp_path):
    disk = RefusingDisk(10**9, errno.ENOSPC)
    output = Output.open(tmp_path / "out", tiny_spec(), disk)
    item = output.take_range()
    disk._at = len(disk.calls) + 1
    output.write(result_of(item.start))
    for call in (output.flush, lambda: output.write(result_of(item.start + 1)), output.finish):
        with pytest.raises(StorageError, match="No space left"):
            call()
    output.close()


def mounted(path, size, *options):
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")


def test_a_full_file_system(tmp_path, reference):
    small = tmp_path / "small"
    mounted(small, "128k")
    try:
        assert run(small / "out", notes=str(tmp_path / "out")) == ExitCode.IO
        assert "No space left on device" in (tmp_path / "out.error").read_text()
        check_readable(small / "out", reference)
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert run(small / "out", notes=str(tmp_path / "out")) == ExitCode.DONE
        check_whole(small / "out", reference)
        check_redo(tmp_path / "out")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_read_only_file_system(tmp_path, reference):
    place = tmp_path / "place"
    mounted(place, "8m")
    try:
        assert run(place / "half", make_disk=RefusingDisk, disk_arguments={"at": 90, "errno": errno.EIO}) == ExitCode.IO
        assert run(place / "whole") == ExitCode.DONE
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(StorageError, match="Read-only file system"):
            Output.open(place / "half", tiny_spec())
        with pytest.raises(StorageError, match="Read-only file system"):
            Output.open(place / "new", tiny_spec())
        assert run_job(place / "whole", tiny_spec()).is_complete
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        finish(place / "half", reference)
    finally:
        subprocess.run(["umount", str(place)], check=True)


class SmallFiles(Disk):
    """Lets no file of this process grow over 2 kB."""

    def __init__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_file_too_large(tmp_path, reference):
    path = tmp_path / "out"
    assert run(path, make_disk=SmallFiles) == ExitCode.IO
    check_readable(path, reference)
    finish(path, reference)
