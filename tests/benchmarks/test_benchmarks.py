"""Every benchmark runs, and counts what it claims to count; times are not tested."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attack_damage
import cpu_speed
import margins_memory
import other_libraries
import pgd_overhead
import pytest
import torch
import training_step
from monai.data import get_track_meta

ROOT = Path(__file__).resolve().parents[2]
Quick = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was() -> Iterator[None]:
    before = torch.get_num_threads(), get_track_meta(), torch.are_deterministic_algorithms_enabled()
    yield
    assert (torch.get_num_threads(), get_track_meta(), torch.are_deterministic_algorithms_enabled()) == before


def check_spread(values: dict[str, float]) -> None:
    assert 0 < values["low"] <= values["median"] <= values["high"]


def check_overhead(content: dict[str, Any], steps: int, batch: int) -> None:
    assert [row["contender"] for row in content["results"]] == [pgd_overhead.PLAIN, pgd_overhead.BATCH]
    for row in content["results"]:
        expected = {
            "forwards": steps,
            "gradients": steps,
            "samples": steps * batch,
            "gradient_samples": steps * batch,
        }
        assert row["evaluations"] == {pgd_overhead.BARE: expected, row["contender"]: expected}
        check_spread(row["ratio"])
        for memory in row["memory"].values():
            assert memory["before"] > 50e6
            assert 0 < memory["peak"] < memory["before"]
            assert memory["held"] <= memory["peak"]


@pytest.mark.slow
def test_pgd_evaluates_the_network_as_often_as_the_bare_loop(quick: Quick) -> None:
    check_overhead(quick(pgd_overhead, "--device", "cpu", "--steps", "4"), steps=4, batch=2)


@pytest.mark.gpu
@pytest.mark.slow
def test_pgd_overhead_on_a_gpu(quick: Quick) -> None:
    content = quick(pgd_overhead, "--device", "cuda")
    check_overhead(content, steps=3, batch=2)
    assert content["machine"]["gpu"]
    assert all(memory["gpu"] > 0 for row in content["results"] for memory in row["memory"].values())


@pytest.mark.parametrize("library", ["foolbox", pytest.param("torchattacks", marks=pytest.mark.extras)])
def test_the_other_library_does_the_same(library: str, quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(library, reason=other_libraries.INSTALL[library])
    monkeypatch.setitem(sys.modules, "torchvision", None)  # nothing may need it
    content = quick(other_libraries, "--libraries", library, "--device", "cpu")
    (row,) = content["results"]
    expected = {"forwards": 5, "gradients": 5, "samples": 15, "gradient_samples": 15}
    assert row["evaluations"] == {library: expected, other_libraries.OURS: expected}
    assert row["noise_apart"] < 1e-6
    theirs, ours = row["loss"][library], row["loss"][other_libraries.OURS]
    assert row["clean_loss"] < min(theirs, ours)
    assert ours == pytest.approx(theirs, rel=0.05)
    check_spread(row["ratio"])
    assert content["versions"][library]


def test_a_difference_between_the_libraries_would_be_seen(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were their loss not replaced, or the step another, the noise would be another: here the step is."""
    ours = other_libraries.ours

    def other_step(task: other_libraries.Task) -> other_libraries.Attack:
        return ours(other_libraries.Task(**{**vars(task), "rel_step": 0.9 * task.rel_step}))

    monkeypatch.setitem(other_libraries.LIBRARIES, "foolbox", other_step)
    (row,) = quick(other_libraries, "--libraries", "foolbox", "--device", "cpu")["results"]
    assert row["noise_apart"] > 0.01


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_a_library_that_is_not_installed_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    words = (
        f"{library} is not installed: {re.escape(other_libraries.INSTALL[library])}, or leave it out with --libraries"
    )
    with pytest.raises(SystemExit, match=words):
        other_libraries.main(["--quick", "--libraries", library])


def test_clipping_that_takes_part_is_an_error() -> None:
    workload = other_libraries.segmentation(4, 2, 0)
    workload.network.eval()
    task = other_libraries.make_task(workload, 5.0, 2)
    assert task.images.min() > 0 and task.images.max() < 1
    torch.testing.assert_close(task.model(task.images), workload.network(workload.images), rtol=1e-3, atol=1e-4)
    with pytest.raises(RuntimeError, match="end of the range"):
        other_libraries._mean_loss(task, [task.images, torch.ones_like(task.images)])


def test_steps_of_sat_and_amat(quick: Quick) -> None:
    rows = quick(training_step)["results"]
    assert [(row["epoch"], row["arm"]) for row in rows] == [(e, arm) for e in (1, 2) for arm in training_step.ARMS]
    for row in rows:
        assert row["visits"] == 2 * 4  # steps per epoch, samples per batch
        check_spread(row["seconds"])
        if row["arm"] == "AMAT boundary":
            # A verdict costs a forward: at the end of the walk at least, where no gradient is taken.
            assert row["forwards_per_visit"] > row["gradients_per_visit"]
            # A sample that is rejected is differentiated with the others, and that gradient thrown away.
            assert row["gradients_per_visit"] <= row["backwards_per_visit"] <= row["forwards_per_visit"]
        else:
            assert row["gradients_per_visit"] == row["forwards_per_visit"] == row["backwards_per_visit"] == 2.0
    sat, paper, boundary = rows[:3]
    assert sat["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert "rejected_before_noise" not in sat
    for row in (*rows[1:3], *rows[4:]):
        share = row["rejected_before_noise"]
        parts = (share, row["gradients_of_these"]), (1 - share, row["gradients_of_others"])
        assert sum(weight * (value or 0.0) for weight, value in parts) == pytest.approx(row["gradients_per_visit"])
        assert row["mean_margin"] >= 2.5
    # The overlay's floor is Δ: what is rejected clean gets plain noise, in full steps.
    assert all(row["gradients_of_these"] in (None, 2.0) for row in (paper, boundary))


def test_all_arms_begin_alike_and_stop_at_every_step(tmp_path: Path) -> None:
    parser = training_step.command_line(training_step.NAME, None)
    parser.set_defaults(dataset_dir=None, volumes=15, std_epochs=1, epochs=1, iterations=2)
    with training_step.quiet():
        arms = training_step.make_arms(parser.parse_args(["--quick"]), tmp_path)
        sat, *others = arms.values()
        for number in (1, 2):
            for arm in arms.values():
                arm.fetch()
                assert (arm.trainer.state.iteration, len(arm.visits)) == (number, number - 1)
            for arm in others:
                assert torch.equal(arm.trainer.state.batch["image"], sat.trainer.state.batch["image"])
            if number == 1:
                weights = [arm.trainer.network.state_dict() for arm in arms.values()]
                assert all(torch.equal(w[key], weights[0][key]) for w in weights[1:] for key in w)
            for arm in arms.values():
                arm.step()
                assert len(arm.visits) == number
        _, paper, boundary = (arm.visits[0].clean_accepted for arm in arms.values())
        assert paper is not None and boundary is not None and torch.equal(paper, boundary)
        assert not torch.equal(*(next(iter(arm.trainer.network.parameters())) for arm in (sat, others[1])))
        for arm in arms.values():
            arm.trainer.run()
            assert (arm.trainer.state.iteration, len(arm.visits)) == (2, 2)


@pytest.mark.slow
def test_cpu_variants_compute_the_same_gradient(quick: Quick) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        *rows, processes = quick(cpu_speed)["results"]
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert [row["variant"] for row in rows] == [*(n for n in cpu_speed.CHANGES if n != "compile"), "batch 3"]
    for row in rows:
        if "left_out" in row:
            assert row["bfloat16"] or row["threads"] > 1
            continue
        for spread in (*row["seconds_per_sample"].values(), row["ratio"]):
            check_spread(spread)
        assert row["cosine"] == pytest.approx(1.0, abs=0.5 if row["bfloat16"] else 1e-3)
        assert row["bfloat16"] == (row["cosine"] < 0.9999)
        reached = row["loss_reached"]
        assert reached["changed"] == pytest.approx(reached["base"], rel=0.1 if row["bfloat16"] else 1e-3)
    assert "two processes" in processes["variant"]
    check_spread(processes["ratio"])


def test_what_cannot_run_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    base = cpu_speed.Variant("base", 2)
    by_name = {variant.name: variant for variant in cpu_speed.variants(base, [2], cpu_speed.CHANGES)}
    assert list(by_name) == list(cpu_speed.CHANGES)
    assert cpu_speed.obstacle(base) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(cpu_speed.shutil, "which", lambda name: None)
    monkeypatch.setattr(cpu_speed.os, "cpu_count", lambda: 1)
    assert "neither avx512_bf16 nor amx_bf16" in str(cpu_speed.obstacle(by_name["bfloat16"]))
    assert "C++ compiler" in str(cpu_speed.obstacle(by_name["compile"]))
    assert "1 cores" in str(cpu_speed.obstacle(by_name["two threads"]))
    assert cpu_speed.obstacle(by_name["channels_last"]) is None
    row = cpu_speed.compare(base, by_name["bfloat16"], 4, None)
    assert "processor" in str(cpu_speed._line(row)["ms per sample"])


@pytest.mark.slow
def test_margins_of_ten_million_samples_take_less_than_100_mb(quick: Quick) -> None:
    results = quick(margins_memory)["results"]
    memory = results["memory"]
    assert memory["samples"] == 10_000_000
    assert memory["tensor"] == 40_000_000
    assert 40e6 <= memory["disk"] < 41e6
    in_use = memory["memory"]["in use"]
    assert 39e6 < in_use["held"] <= in_use["peak"] <= 100e6
    saving, loading = memory["memory"]["while saving"], memory["memory"]["while loading"]
    assert saving["peak"] > 39e6 and saving["held"] < 10e6  # a copy, gone once it is written
    assert loading["peak"] > 39e6
    assert [(row["kind"], row["batch"]) for row in results["times"]] == [
        (kind, batch) for kind in ("update", "look-up") for batch in (16, 256)
    ]
    for row in results["times"]:
        check_spread(row["ratio"])


def test_the_list_of_benchmarks_is_complete() -> None:
    folder = ROOT / "benchmarks"
    text = (folder / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert len(scripts) >= 5
    assert [name for name in scripts if f"`{name}`" not in text] == []
    assert [name for name in re.findall(r"`(\w+\.py)`", text) if not (folder / name).is_file()] == []


def test_the_damage_of_attacks_is_told_with_the_gradients_that_they_take(quick: Quick) -> None:
    rows = {row["attack"]: row for row in quick(attack_damage)["results"]}
    assert rows[attack_damage.REFERENCE]["gradients"] == 5
    assert rows["APGD-1, smooth ADI"]["gradients"] == 1
    assert rows["large radius first, 3 steps, smooth ADI"]["gradients"] == 3
    assert rows["Square, 2 queries, training loss"]["gradients"] == 0
    assert rows[attack_damage.REFERENCE]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    suite = rows["suite: worst of APGD-1 on training loss and smooth ADI"]
    assert suite["gradients"] <= 2
    for alone in ("APGD-1, training loss", "APGD-1, smooth ADI"):
        assert suite["adi"]["value"] <= rows[alone]["adi"]["value"] + 1e-6
