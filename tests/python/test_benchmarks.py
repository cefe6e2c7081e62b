"""The parts of benchmarks/ that measure nothing, and that what they count is counted right. No time is asserted."""

import dataclasses
import json
import sys

import pytest
import transformers

import checkpoint
import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "benchmarks"))
import measure
import peers
import report
import synthetic_model

GOOD = measure.Run(1.0, 0.5, 80e6, read_bytes=300e6, written_bytes=6e9, output_bytes=6e9)


def results(limit=0.95, ours=GOOD, copy=6.0, peer=12.0) -> report.Results:
    def row(title, kind, seconds, **more):
        return report.Row(title, kind, [dataclasses.replace(GOOD, seconds=seconds)] if seconds else [], **more)

    return report.Results(
        [
            row("limit", "limit", limit, skipped="" if limit else "SKIPPED"),
            report.Row("ours", "upmoe", [ours]),
            row("cp", "copy", copy),
            row("theirs", "peer", peer, rival="ours", skipped="" if peer else "not installed"),
        ],
        source_bytes=300e6,
    )


def beginnings(which: report.Results) -> list[str]:
    return [line.split(":")[0] for line in report.verdicts(which)]


def test_every_target_is_met_by_a_good_run():
    assert beginnings(results()) == ["met"] * 7


@pytest.mark.parametrize(
    "worse,place",
    [
        (results(limit=0.89), 0),
        (results(copy=0.99), 1),
        (results(copy=3.4, limit=0.8), 2),
        (results(peer=9.9), 3),
        (results(ours=dataclasses.replace(GOOD, peak_bytes=501e6)), 4),
        (results(ours=dataclasses.replace(GOOD, read_bytes=310e6)), 5),
        (results(ours=dataclasses.replace(GOOD, written_bytes=6.2e9)), 6),
        (results(ours=dataclasses.replace(GOOD, read_bytes=290e6)), 5),  # the source was not outside the page cache
    ],
    ids=["limit", "copy", "times_copy", "peer", "memory", "read", "written", "cached"],
)
def test_a_target_just_missed_is_said(worse, place):
    assert beginnings(worse)[place] == "MISSED"


def test_what_just_missed_is_not_rounded_to_what_was_asked():
    missed = report.verdicts(results(peer=9.998, ours=dataclasses.replace(GOOD, peak_bytes=500.1e6)))
    assert missed[3:5] == ["MISSED: 10 times theirs: ours 9.9", "MISSED: at most 500 MB resident: ours 501"]


def test_a_small_output_may_lose_more_to_start_up():
    small = dataclasses.replace(GOOD, written_bytes=1e9, output_bytes=1e9)
    assert beginnings(results(limit=0.76, ours=small))[0] == "met"
    assert beginnings(results(limit=0.74, ours=small))[0] == "MISSED"


def test_three_and_a_half_times_cp_is_not_asked_where_the_limit_is_near():
    assert beginnings(results(copy=3.0))[2] == "not asked"


def test_what_is_not_there_is_neither_met_nor_missed():
    without = results(limit=None, peer=None)
    assert beginnings(without) == ["not measured", "met", "not measured", "met", "met", "met"]
    assert "| limit | SKIPPED |" in report.table(without)
    assert "| theirs | not installed |" in report.table(without)


def test_the_table_has_ratios_and_rates():
    ours = report.table(results(limit=0.5)).splitlines()[3]
    assert ours == "| ours | 1 | 1.00 (1.00, 1.00) | 0.5 | 6x | 6.00 | 0.08 | 80 MB | 0.30 GB | 6.00 GB |"


def test_a_process_is_measured_with_its_children_and_without_this_one(large_folder):
    # On a disk, since what stays in memory is not counted.
    script = 'head -c 40000000 /dev/urandom > "$0/a" && sync "$0/a"; "$1" -c "b = bytearray(200_000_000)"'
    run = measure.run(["sh", "-c", script, large_folder, sys.executable], large_folder / "log")
    assert 200e6 < run.peak_bytes < 260e6  # this process, with torch, has more
    if not run.written_bytes:
        pytest.skip("this file system counts no bytes written")
    assert 40e6 <= run.written_bytes < 42e6


def test_a_failure_has_status_and_last_words(tmp_path):
    with pytest.raises(measure.CommandFailed, match="exit status 3 after .*: no such luck"):
        measure.run(["sh", "-c", "echo no such luck; exit 3"], tmp_path / "log")
    with pytest.raises(measure.CommandFailed, match="killed by signal 9"):
        measure.run(["sh", "-c", "kill -9 $$"], tmp_path / "log")


def test_more_memory_than_there_is_is_refused(tmp_path):
    with pytest.raises(measure.CommandFailed, match="MemoryError"):
        measure.run([sys.executable, "-c", "bytearray(1 << 45)"], tmp_path / "log")


SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "num_hidden_layers": 2, "vocab_size": 320}


@pytest.mark.parametrize("shape", synthetic_model.CONFIGS)
def test_a_synthetic_model_loads_and_converts(tmp_path, convert, shape):
    config = synthetic_model.CONFIGS[shape] | SMALL
    folder = tmp_path / "synthetic"
    synthetic_model.make(folder, config)
    assert synthetic_model.is_whole(folder, config)
    checkpoint.load(folder)  # complains about any name or shape that is not the architecture's
    assert transformers.AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    checkpoint.load(convert(folder, "--method", "drop", "--experts", 4))


def test_a_synthetic_model_that_is_cut_off_or_of_another_shape_is_not_whole(tmp_path):
    config = synthetic_model.CONFIGS["1b"] | SMALL
    folder = tmp_path / "synthetic"
    assert not synthetic_model.is_whole(folder, config)
    synthetic_model.make(folder, config)
    assert not synthetic_model.is_whole(folder, config | {"vocab_size": 321})
    with (folder / "model.safetensors").open("rb+") as file:
        file.truncate(synthetic_model.file_bytes(config) - 2)
    assert not synthetic_model.is_whole(folder, config)


def test_mergekit_gets_the_dense_model_as_every_expert(tmp_path):
    peers.write_mergekit_config(tmp_path / "config.yml", tmp_path / "model", experts=3, top_k=2, noise=0.01)
    written = json.loads((tmp_path / "config.yml").read_text())
    expert = {"source_model": str(tmp_path / "model"), "noise_scale": 0.01}
    assert written["base_model"] == expert["source_model"] and written["experts"] == [expert] * 3
