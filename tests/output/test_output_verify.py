"""verify names every damage; repair marks exactly the damaged ranges; the next run heals them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_job import result_of

from runner import repair as repair_command
from runner import verify as verify_command
from runner.cli.folder import main
from runner.errors import DamageError
from runner.output import Output
from runner.output.commits import read_commits
from runner.output.disk import Disk
from runner.output.layout import Layout
from runner.output.reparation import repair
from runner.output.shards import check_part
from runner.output.verification import row_faults, verify


def contents(path):
    return {item.relative_to(path).as_posix(): item.read_bytes() for item in sorted(path.glob("*/part-*.arrow"))}


@pytest.fixture
def whole(tmp_path, spec, generate):
    generate(tmp_path / "out", spec)
    return tmp_path / "out"


def flip(path, position, bit=3):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def damage_flip(out):
    flip(out / "data/part-00002.arrow", 700)


def damage_truncate(out):
    path = out / "data/part-00002.arrow"
    path.write_bytes(path.read_bytes()[:-100])


def damage_delete(out):
    (out / "data/part-00002.arrow").unlink()


def damage_folder(out):
    damage_delete(out)
    (out / "data/part-00002.arrow").mkdir()


def damage_delete_errors(out):
    (out / "errors/part-00002.arrow").unlink()


def damage_delete_commit(out):
    (out / ".runner/commits/part-00002.g1.json").unlink()


def damage_flip_commit(out):
    flip(out / ".runner/commits/part-00002.g1.json", 200)


def damage_swap(out):
    (out / "data/part-00003.arrow").rename(out / "data/part-00002.arrow.new")
    (out / "data/part-00003.arrow").write_bytes((out / "data/part-00002.arrow").read_bytes())
    (out / "data/part-00002.arrow.new").unlink()


DAMAGES = {
    "flip": (damage_flip, [2]),
    "truncate": (damage_truncate, [2]),
    "delete": (damage_delete, [2]),
    "folder": (damage_folder, [2]),
    "delete errors": (damage_delete_errors, [2]),
    "delete commit": (damage_delete_commit, [2]),
    "flip commit": (damage_flip_commit, [2]),
    "wrong part": (damage_swap, [3]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_marked_and_healed(name, whole, spec, generate):
    damage, indices = DAMAGES[name]
    before = contents(whole)
    stamps = {path: (whole / path).stat().st_mtime_ns for path in before}
    damage(whole)
    assert sorted({item.index for item in verify(whole).damages if item.index is not None}) == indices
    repair(whole)
    assert verify(whole).damages == []
    assert not (whole / "_SUCCESS").exists()
    with Output.open(whole, spec) as output:
        taken = []
        while (item := output.take_range()) is not None:
            taken.append(item.index)
            for row in range(item.start, item.stop):
                output.write(result_of(row))
        assert output.finish().is_complete
    assert taken == indices
    assert contents(whole) == before
    for path, stamp in stamps.items():
        assert any(f"{index:05d}" in path for index in indices) or (whole / path).stat().st_mtime_ns == stamp
    assert verify(whole).damages == [] and verify(whole).notes == []
    with Output.open(whole, spec) as output:
        assert output.is_done


@pytest.mark.parametrize("place", ["data", ".runner/commits"])
def test_a_folder_that_is_gone_is_made_again(place, whole, spec, generate):
    before = contents(whole)
    shutil.rmtree(whole / place)
    repair(whole)
    assert verify(whole).damages == []
    generate(whole, spec)
    assert contents(whole) == before
    assert verify(whole).damages == [] and verify(whole).notes == []


def test_every_byte_of_a_part_counts(whole):
    path = whole / "data/part-00001.arrow"
    for position in range(0, path.stat().st_size, 97):
        flip(path, position)
        assert [damage.index for damage in verify(whole).damages] == [1]
        flip(path, position)
    assert verify(whole).damages == []


def test_extra_files_are_damage_and_move_aside(whole):
    (whole / "data/part-00099.arrow").write_bytes(b"x")
    (whole / "data/notes.txt").write_bytes(b"y")
    assert {item.path.name for item in verify(whole).damages} == {"part-00099.arrow", "notes.txt"}
    repair(whole)
    assert {path.read_bytes() for path in (whole / ".runner/damaged").iterdir()} == {b"x", b"y"}
    assert verify(whole).damages == []


def test_a_missing_part_stops_the_next_run(whole, spec):
    damage_delete(whole)
    with pytest.raises(DamageError, match=r"part-00002\.arrow.*runner\.repair"):
        Output.open(whole, spec)


def test_an_unfinished_job_is_no_damage(tmp_path, spec):
    with Output.open(tmp_path / "out", spec) as output:
        item = output.take_range()
        for row in range(item.start, item.stop):
            output.write(result_of(row))
    report = verify(tmp_path / "out")
    assert report.damages == [] and report.notes == ["6 of 7 ranges are left; run the job to go on"]


def test_what_journals_hold_is_told_and_where_one_is_damaged(tmp_path, spec, caplog):
    path = tmp_path / "out"
    with Output.open(path, spec) as output:
        output.take_range()
        for row in (0, 1, 2):
            output.write(result_of(row))
            output.flush()
    assert verify(path).notes == [
        "7 of 7 ranges are left; run the job to go on",
        "3 finished rows of them are in journals",
    ]
    assert caplog.text == ""
    (journal,) = (path / ".runner/journals").iterdir()
    journal.write_bytes(journal.read_bytes()[:-100])
    report = verify(path)
    assert report.damages == [] and report.notes[1] == "2 finished rows of them are in journals"
    assert f"{journal} ends in a damaged batch" in caplog.text


def test_lines_that_are_there_twice_are_found_behind_a_right_hash(whole, spec):
    commit = read_commits(Disk(), Layout(whole))[1]
    data = check_part((whole / "data/part-00001.arrow").read_bytes(), commit.data, spec.columns.data)
    errors = check_part((whole / "errors/part-00001.arrow").read_bytes(), commit.errors, spec.columns.errors)
    assert list(row_faults(commit, data, errors, spec.columns)) == []
    assert list(row_faults(commit, pa.concat_tables([data, data]), errors, spec.columns))
    assert list(row_faults(commit, data.slice(2), errors, spec.columns))
    assert list(row_faults(commit, data, None, spec.columns))


def run_verify(folder: Path) -> int:
    return main([str(folder)], verify_command._USAGE, verify_command.check)


def run_repair(folder: Path) -> int:
    return main([str(folder)], repair_command._USAGE, repair_command.mark)


def test_commands_say_what_they_found(whole, caplog):
    caplog.set_level("INFO")
    assert run_verify(whole) == 0
    damage_flip(whole)
    assert run_verify(whole) == 65
    assert "data/part-00002.arrow: its SHA-256" in caplog.text
    assert run_repair(whole) == 0
    assert run_verify(whole / "data") == 64


def unreadable(path: Path) -> None:
    """Its place is taken by a file that the kernel answers with EIO."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    "name", ["data/part-00002.arrow", "errors/part-00002.arrow", ".runner/commits/part-00002.g1.json", "_SUCCESS"]
)
def test_a_file_that_the_disk_does_not_give_is_named_and_the_rest_is_checked(whole, caplog, capsys, name):
    caplog.set_level("INFO")
    unreadable(whole / name)
    assert run_verify(whole) == 74
    assert f"unreadable: {whole / name}: cannot be read (Input/output error)" in caplog.text
    assert "0 damages, 1 files unreadable" in caplog.text
    assert run_repair(whole) == 74
    assert "nothing was marked" in capsys.readouterr().err
    flip(whole / "data/part-00003.arrow", 700)
    assert run_verify(whole) == 65
    assert "data/part-00003.arrow: its SHA-256" in caplog.text
    assert not list((whole / ".runner/commits").glob("*.g2.json"))


def test_commands_wait_for_an_active_run(whole, capsys):
    script = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(whole / ".runner/locks/0-of-1.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert run_verify(whole) == 73
        assert run_repair(whole) == 73
        assert "a run is active" in capsys.readouterr().err
        holder.stdin.close()
    assert run_verify(whole) == 0


def test_the_job_record_is_checked(whole, spec):
    path = whole / ".runner/job.json"
    record = json.loads(path.read_bytes())
    record["num_rows"] = 49
    path.write_text(json.dumps(record))
    with pytest.raises(DamageError, match=r"job\.json"):
        Output.open(whole, spec)
