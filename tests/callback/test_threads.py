"""When a run changes its number of threads."""

from types import SimpleNamespace

import pytest
import torch

from ldm.callback import threads
from ldm.callback.threads import Threads


@pytest.fixture
def world(monkeypatch):
    """A machine of four cores, its clock, and the threads of torch."""
    state = SimpleNamespace(now=0.0, others=0.0, threads=4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: state.threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: setattr(state, "threads", number))
    monkeypatch.setattr(threads.time, "monotonic", lambda: state.now)
    monkeypatch.setattr(threads, "OtherPrograms", lambda: SimpleNamespace(cores=lambda: state.others))
    return state


def begun(*, device="cpu", world_size=1):
    callback = Threads(seconds=5.0)
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer = SimpleNamespace(strategy=strategy, world_size=world_size, global_step=7)
    callback.setup(trainer, None, "fit")
    return callback, trainer


def steps(world, callback, trainer, seconds, others):
    """Train for some seconds; return how many threads each of them had."""
    world.others, had = others, []
    for _ in range(seconds):
        world.now += 1.0
        callback.on_train_batch_end(trainer, None, None, None, 0)
        had.append(world.threads)
    return had


def test_it_makes_room_for_another_program_and_takes_the_cores_back(world, caplog):
    callback, trainer = begun()
    assert steps(world, callback, trainer, 20, others=0.1) == [4] * 20
    with caplog.at_level("INFO"):
        assert steps(world, callback, trainer, 20, others=1.0) == [4] * 9 + [3] * 11
    assert caplog.messages == ["step 7: other programs use 1.0 of the 4 cores; from now on it trains with 3 threads"]
    assert steps(world, callback, trainer, 20, others=5.0)[-1] == 1
    assert steps(world, callback, trainer, 20, others=0.0)[-1] == 4


def test_what_lasts_for_one_look_changes_nothing(world):
    callback, trainer = begun()
    for _ in range(5):
        assert steps(world, callback, trainer, 5, others=2.0) == [4] * 5
        assert steps(world, callback, trainer, 5, others=0.0) == [4] * 5


def test_validation_goes_on_with_what_was_found_and_the_process_gets_its_threads_back(world):
    callback, trainer = begun()
    steps(world, callback, trainer, 20, others=2.0)
    callback.teardown(trainer, None, "fit")
    assert world.threads == 4
    callback.setup(trainer, None, "validate")
    assert world.threads == 2
    callback.teardown(trainer, None, "validate")
    assert world.threads == 4


@pytest.mark.parametrize("kept", ["OMP_NUM_THREADS", "deterministic", "gpu", "several processes"])
def test_the_number_stays_where_it_was_chosen_or_has_no_meaning(world, kept, monkeypatch):
    if kept == "OMP_NUM_THREADS":
        monkeypatch.setenv(kept, "4")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: kept == "deterministic")
    callback, trainer = begun(
        device="cuda" if kept == "gpu" else "cpu", world_size=2 if kept == "several processes" else 1
    )
    assert steps(world, callback, trainer, 20, others=3.0) == [4] * 20
