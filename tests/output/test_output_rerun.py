"""Doing lines of a finished job again: exactly those, everything else byte for byte as it was."""

from __future__ import annotations

from dataclasses import replace

import datasets
import pyarrow.dataset
import pytest
from test_output_run import part_bytes, tree_bytes
from tiny_job import redone_of, result_of, run_job

from runner.errors import ConfigError
from runner.output import Output, Selection, recorded_job
from runner.output.reparation import repair
from runner.output.verification import verify

LONGER = Selection(finish_reasons=("length",), is_free=lambda key: key == "sampling.max_tokens")
RETRY = Selection(error_codes=("any",))
LENGTH_ROWS = [row for row in range(50) if any(r["finish_reason"] == "length" for r in result_of(row).records)]


def rerun_spec(spec, selection=LONGER, **changes):
    settings = {"sampling.max_tokens": 4096} if selection is LONGER else {}
    return replace(spec, selection=selection, fingerprint={**spec.fingerprint, **settings}, **changes)


def lines_of(path, kind="data"):
    lines = pyarrow.dataset.dataset(path / kind, format="ipc").to_table().to_pylist()
    return {(line["row_id"], line["request_index"], line["sample_index"]): line for line in lines}


@pytest.fixture
def done(tmp_path, spec, generate):
    generate(tmp_path / "out", spec)
    return tmp_path / "out"


def test_only_the_selected_lines_change(done, spec, generate):
    before, errors = lines_of(done), lines_of(done, "errors")
    summary = generate(done, rerun_spec(spec))
    after = lines_of(done)
    changed = {key[0] for key in before if before[key] != after[key]}
    assert sorted(changed) == LENGTH_ROWS
    assert all(before[row, 0, 1] == after[row, 0, 1] for row in LENGTH_ROWS if (row, 0, 1) in before)
    assert after.keys() == before.keys() and lines_of(done, "errors") == errors
    assert summary.is_complete and summary.totals.rows == 50 and summary.totals.dropped == 8
    assert verify(done).damages == [] and verify(done).notes == []


def test_only_what_is_to_be_done_is_given(done, spec):
    with Output.open(done, rerun_spec(spec)) as output:
        given = {}
        while (item := output.take_range()) is not None:
            assert set(range(item.start, item.stop)) - item.done == item.redo.keys()
            given |= item.redo
            for row in item.redo:
                output.write(redone_of(row, item.redo[row]))
        output.finish()
    assert given == {row: frozenset({(0, 0)}) for row in LENGTH_ROWS}


@pytest.mark.parametrize("selection", [LONGER, RETRY])
def test_the_original_command_finds_its_job_done(done, spec, generate, selection):
    generate(done, rerun_spec(spec, selection))
    before = tree_bytes(done)
    with Output.open(done, spec) as output:
        assert output.is_done and output.finish().is_complete
    assert tree_bytes(done) == before
    assert recorded_job(done).fingerprint == spec.fingerprint


def test_what_a_rerun_accepts_is_the_jobs_and_how_it_ran_is_not(tmp_path, spec):
    begun = replace(spec, command={"settings": "the job's"})
    run_job(tmp_path / "out", begun)
    changed = rerun_spec(replace(begun, command={"settings": "the rerun's"}), accept=("job.code",))
    run_job(tmp_path / "out", replace(changed, fingerprint={**changed.fingerprint, "job.code": "mended"}))
    job = recorded_job(tmp_path / "out")
    assert job.command == {"settings": "the job's"} and job.reruns[0]["settings"] == {"sampling.max_tokens": 4096}
    assert job.fingerprint == {**spec.fingerprint, "job.code": "mended"}


def test_the_same_rerun_again_changes_nothing(done, spec):
    run_job(done, rerun_spec(spec))
    before = tree_bytes(done)
    assert any(line["finish_reason"] == "length" for line in lines_of(done).values())
    with Output.open(done, rerun_spec(spec)) as output:
        assert output.is_done
    assert tree_bytes(done) == before


def test_another_rerun_does_what_is_still_selected(done, spec):
    run_job(done, rerun_spec(spec))
    longer = rerun_spec(spec)
    longer = replace(longer, fingerprint={**longer.fingerprint, "sampling.max_tokens": 8192})
    with Output.open(done, longer) as output:
        rows = set()
        while (item := output.take_range()) is not None:
            rows |= item.redo.keys()
    assert rows == {row for row in LENGTH_ROWS if row % 12 == 4}


def test_a_retry_heals_the_failed_and_can_be_repeated(done, spec, tmp_path):
    before = lines_of(done)
    run_job(done, rerun_spec(spec, RETRY))
    after = lines_of(done)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 2 * 6 + 8  # rows that failed as a whole, and lone samples
    assert lines_of(done, "errors") == {} and verify(done).damages == []
    rows = datasets.load_dataset(str(done), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == len(after)
    assert datasets.get_dataset_config_names(str(done)) == ["default"]
    with Output.open(done, rerun_spec(spec, RETRY)) as output:
        assert output.is_done


def test_what_fails_again_is_retried_by_the_next_retry(done, spec):
    codes = rerun_spec(spec, Selection(error_codes=("template",)))
    for _ in range(2):
        with Output.open(done, codes) as output:
            assert not output.is_done
            while (item := output.take_range()) is not None:
                for row in item.redo:
                    assert row % 7 == 3
                    output.write(result_of(row))
            output.finish()
    assert len(recorded_job(done).reruns) == 2 and recorded_job(done).rerun is None


def test_a_rerun_needs_a_finished_job(tmp_path, spec):
    with pytest.raises(ConfigError, match="holds no job yet"):
        Output.open(tmp_path / "out", rerun_spec(spec))
    with Output.open(tmp_path / "out", spec) as output:
        output.take_range()
    with pytest.raises(ConfigError, match="7 ranges of this job are not done yet"):
        Output.open(tmp_path / "out", rerun_spec(spec))
    assert recorded_job(tmp_path / "out").rerun is None


def test_a_rerun_takes_no_other_input_and_no_other_setting(done, spec):
    grown = rerun_spec(spec, num_rows=61, growable=("input.limit",))
    grown = replace(grown, fingerprint={**grown.fingerprint, "input.limit": 61})
    with pytest.raises(ConfigError, match="61 rows and the job 50"):
        Output.open(done, grown)
    other = rerun_spec(spec)
    with pytest.raises(ConfigError, match=r"job\.code"):
        Output.open(done, replace(other, fingerprint={**other.fingerprint, "job.code": "new"}))


def test_an_unfinished_rerun_leaves_the_original_command_in_peace(done, spec):
    with Output.open(done, rerun_spec(spec)) as output:
        item = output.take_range()
        output.write(redone_of(4, item.redo[4]))
    assert not (done / "_SUCCESS").exists()
    journals = list((done / ".runner/journals").iterdir())
    with Output.open(done, spec) as output:
        assert output.is_done and output.finish().is_complete
    assert list((done / ".runner/journals").iterdir()) == journals
    with Output.open(done, rerun_spec(spec)) as output:
        assert output.take_range().start == 16  # row 4 was journalled and completes the first range at once
    run_job(done, rerun_spec(spec))
    assert (done / "_SUCCESS").exists() and verify(done).damages == []


def test_partitions_rerun_together(done, spec, tmp_path, generate):
    generate(tmp_path / "whole", spec)
    run_job(tmp_path / "whole", rerun_spec(spec))
    run_job(done, rerun_spec(spec, partition=(0, 2)))
    assert not (done / "_SUCCESS").exists() and recorded_job(done).rerun is not None
    run_job(done, rerun_spec(spec, partition=(1, 2)))
    assert part_bytes(done) == part_bytes(tmp_path / "whole")
    assert (done / "_SUCCESS").exists() and recorded_job(done).rerun is None


def test_leased_ranges_are_done_again_too(done, spec, tmp_path, generate):
    generate(tmp_path / "whole", spec)
    run_job(tmp_path / "whole", rerun_spec(spec))
    run_job(done, rerun_spec(spec, partition=None))
    assert part_bytes(done) == part_bytes(tmp_path / "whole")


def test_an_extension_after_a_rerun_keeps_what_was_done_again(done, spec):
    run_job(done, rerun_spec(spec))
    before = lines_of(done)
    grown = replace(spec, num_rows=61, fingerprint={**spec.fingerprint, "input.limit": 61}, growable=("input.limit",))
    run_job(done, grown)
    after = lines_of(done)
    assert {key: after[key] for key in before} == before and (58, 0, 0) in after
    again = replace(grown, selection=LONGER, fingerprint={**grown.fingerprint, "sampling.max_tokens": 4096})
    run_job(done, again)
    assert lines_of(done)[58, 0, 0]["completion"] == "longer"
    assert verify(done).damages == []


def test_a_damaged_part_of_a_rerun_is_done_again_by_both_commands(done, spec):
    run_job(done, rerun_spec(spec))
    before = part_bytes(done)
    (done / "data/part-00000.arrow").write_bytes(b"gone")
    repair(done)
    run_job(done, spec)
    with Output.open(done, rerun_spec(spec)) as output:
        item = output.take_range()
        assert output.ranges_left == 0 and item.redo.keys() == {4}
    run_job(done, rerun_spec(spec))
    assert part_bytes(done) == before


def test_the_sums_are_those_of_the_lines(done, spec):
    for changed in (rerun_spec(spec), rerun_spec(spec, RETRY)):
        run_job(done, changed)
        totals, lines = verify(done).folder.totals(), lines_of(done)
        reasons = [line["finish_reason"] for line in lines.values()]
        assert totals.samples == len(lines) and totals.rows == 50
        assert totals.finish_reasons == {reason: reasons.count(reason) for reason in set(reasons)}
        assert totals.completion_tokens == sum(line["completion_tokens"] for line in lines.values())
    assert totals.errors == {} and totals.failed_rows == totals.failed_samples == 0 and totals.empty_rows == 4
