"""A job from open to finish, without faults."""

from __future__ import annotations

import random
from dataclasses import replace

import datasets
import pyarrow.dataset
import pytest
from tiny_job import result_of

from runner.errors import ConfigError
from runner.output import Output, recorded_job


def part_bytes(path):
    return {item.relative_to(path).as_posix(): item.read_bytes() for item in sorted(path.glob("*/part-*.arrow"))}


def tree_bytes(path):
    return {item: (item.stat().st_mtime_ns, item.read_bytes()) for item in sorted(path.rglob("*")) if item.is_file()}


def test_every_row_once_and_in_order(tmp_path, spec, generate):
    summary = generate(tmp_path / "out", spec)
    lines = pyarrow.dataset.dataset(tmp_path / "out/data", format="ipc").to_table()
    keys = list(zip(lines["row_id"].to_pylist(), lines["sample_index"].to_pylist(), strict=True))
    wanted = [(row, record["sample_index"]) for row in range(50) for record in result_of(row).records]
    assert keys == wanted
    assert summary.is_complete and summary.totals.rows == 50 and summary.totals.samples == len(wanted)
    assert summary.totals.errors == {"template": 6, "no_title": 8}
    assert summary.totals.dropped == 8 and summary.totals.empty_rows == 4
    assert lines["turns"].to_pylist()[2] == [{"role": "user", "weight": 0.5}]


def test_bytes_do_not_depend_on_the_order_of_completion(tmp_path, spec, generate):
    generate(tmp_path / "a", spec)
    generate(tmp_path / "b", spec, lambda rows: random.Random(1).sample(rows, len(rows)))
    assert part_bytes(tmp_path / "a") == part_bytes(tmp_path / "b")


def test_a_done_job_is_not_touched(tmp_path, spec, generate):
    first = generate(tmp_path / "out", spec)
    before = tree_bytes(tmp_path / "out")
    with Output.open(tmp_path / "out", spec) as output:
        assert output.is_done and output.take_range() is None
        assert output.finish() == first
    assert tree_bytes(tmp_path / "out") == before


def test_loads_half_done_and_after_it_was_finished(tmp_path, spec):
    path = tmp_path / "out"
    with Output.open(path, spec) as output:
        item = output.take_range()
        for row in range(item.start, item.stop):
            output.write(result_of(row))
    half = datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(half["row_id"]) <= set(range(8)) and half.num_rows
    with Output.open(path, spec) as output:
        while (item := output.take_range()) is not None:
            for row in range(item.start, item.stop):
                output.write(result_of(row))
        summary = output.finish()
    whole = datasets.load_dataset(str(path), split="train", cache_dir=str(tmp_path / "cache"))
    errors = datasets.load_dataset(str(path), "errors", split="train", cache_dir=str(tmp_path / "cache"))
    assert whole.num_rows == summary.totals.samples
    assert errors.num_rows == sum(summary.totals.errors.values())


def test_a_job_without_rows_leaves_a_part_that_loads(tmp_path, spec, generate):
    summary = generate(tmp_path / "out", spec, num_rows=0)
    assert summary.is_complete and summary.totals.rows == 0
    assert pyarrow.dataset.dataset(tmp_path / "out/data", format="ipc").count_rows() == 0


def test_partitions_share_a_folder(tmp_path, spec, generate):
    generate(tmp_path / "whole", spec)
    assert not generate(tmp_path / "out", spec, partition=(0, 2)).is_complete
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert generate(tmp_path / "out", spec, partition=(1, 2)).is_complete
    assert part_bytes(tmp_path / "out") == part_bytes(tmp_path / "whole")
    assert (tmp_path / "out/_SUCCESS").read_bytes() == (tmp_path / "whole/_SUCCESS").read_bytes()


def test_a_row_is_taken_once(tmp_path, spec):
    with Output.open(tmp_path / "out", spec) as output:
        output.take_range()
        output.write(result_of(0))
        with pytest.raises(ValueError, match="row 0"):
            output.write(result_of(0))
        with pytest.raises(ValueError, match="row 40"):
            output.write(result_of(40))


def test_open_ranges_are_bounded(tmp_path, spec):
    with Output.open(tmp_path / "out", replace(spec, max_open_ranges=2)) as output:
        assert [output.take_range().index, output.take_range().index] == [0, 1]
        assert output.take_range() is None and output.ranges_left == 5
        for row in range(8, 16):
            output.write(result_of(row))
        assert output.take_range().index == 2


def test_a_changed_setting_is_refused_by_name(tmp_path, spec, generate):
    generate(tmp_path / "out", spec)
    changed = replace(spec, fingerprint={**spec.fingerprint, "sampling.temperature": 0.9, "job.code": "abd"})
    with pytest.raises(ConfigError, match=r"job\.code: \"abc\" -> \"abd\"; sampling\.temperature: 0\.7 -> 0\.9"):
        Output.open(tmp_path / "out", changed)
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0\.7 -> 0\.9\. Put"):
        Output.open(tmp_path / "out", replace(changed, accept=("job.code",)))
    accepted = replace(changed, accept=("job.code", "sampling.temperature"))
    generate(tmp_path / "out", accepted)
    assert recorded_job(tmp_path / "out").fingerprint["sampling.temperature"] == 0.9
    with Output.open(tmp_path / "out", changed) as output:
        assert output.is_done


def test_a_changed_file_is_shown_by_the_beginning_of_its_hash(tmp_path, spec, generate):
    generate(tmp_path / "out", replace(spec, fingerprint={"job.code": "a" * 64, "job.template": "t" * 90}))
    with pytest.raises(ConfigError) as caught:
        Output.open(tmp_path / "out", replace(spec, fingerprint={"job.code": "b" * 64, "job.template": "t" * 91}))
    assert 'job.code: "aaaaaaaaaaaa..." -> "bbbbbbbbbbbb..."; job.template: "tttt' in str(caught.value)
    assert str(caught.value).count('"') == 8


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_in_accept_that_is_no_setting_is_refused_and_nothing_is_touched(tmp_path, spec, generate, overwrite):
    typo = replace(spec, accept=("job.cod",), overwrite=overwrite)
    with pytest.raises(ConfigError, match=r"resume\.accept=\[job\.cod\]: .* did you mean job\.code\?"):
        Output.open(tmp_path / "out", typo)
    assert not (tmp_path / "out").exists()
    generate(tmp_path / "out", spec)
    with pytest.raises(ConfigError, match="did you mean"):
        Output.open(tmp_path / "out", typo)
    assert (tmp_path / "out/_SUCCESS").exists()


def test_a_setting_that_an_older_version_had_may_be_accepted(tmp_path, spec, generate):
    generate(tmp_path / "out", replace(spec, fingerprint={**spec.fingerprint, "old.key": 1}))
    with Output.open(tmp_path / "out", replace(spec, accept=("old.key",))) as output:
        assert output.ranges_left == 0


def test_overwrite_starts_over(tmp_path, spec, generate):
    generate(tmp_path / "out", spec)
    with Output.open(tmp_path / "out", replace(spec, overwrite=True)) as output:
        assert output.ranges_left == 7 and not list((tmp_path / "out/data").iterdir())


def test_a_folder_of_another_is_left_alone(tmp_path, spec, generate):
    (tmp_path / "README.md").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"README\.md"):
            generate(tmp_path, spec, overwrite=overwrite)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_grown_input_extends_the_job(tmp_path, spec, generate):
    generate(tmp_path / "whole", spec, num_rows=61)
    generate(tmp_path / "out", spec)
    grown = replace(spec, num_rows=61, fingerprint={**spec.fingerprint, "input.limit": 61}, growable=("input.limit",))
    generate(tmp_path / "out", grown)
    assert part_bytes(tmp_path / "out") == part_bytes(tmp_path / "whole")
    with Output.open(tmp_path / "out", replace(spec, growable=("input.limit",))) as output:
        assert output.is_done


def test_a_job_that_came_to_nothing_takes_other_settings(tmp_path, spec, generate):
    Output.open(tmp_path / "out", spec).close()
    changed = replace(spec, fingerprint={**spec.fingerprint, "sampling.temperature": 0.9})
    generate(tmp_path / "out", changed)
    assert recorded_job(tmp_path / "out").fingerprint["sampling.temperature"] == 0.9


@pytest.mark.parametrize("partition", [(1, 2), None])
def test_a_job_that_others_have_begun_does_not(tmp_path, spec, partition):
    Output.open(tmp_path / "out", replace(spec, partition=partition)).close()
    changed = replace(spec, partition=(0, 2), fingerprint={**spec.fingerprint, "sampling.temperature": 0.9})
    with pytest.raises(ConfigError, match=r"sampling\.temperature"):
        Output.open(tmp_path / "out", changed)
