"""How many cores other programs use, by counters that the test moves, and what is said of it."""

import os
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
import torch

from ldm.processes import cores
from ldm.processes.cores import OtherPrograms, own_cores, room, warn_of_busy_cores

Times = namedtuple("Times", ["user", "nice", "system", "idle", "iowait", "steal", "guest"])
Own = namedtuple("Own", ["user", "system", "children_user", "children_system"])
CPU = torch.device("cpu")


class Machine:
    """A machine of four cores, and a fifth one that this program may not use; `pass_time` moves its counters."""

    def __init__(self):
        self.now, self.all, self.own, self.children = 100.0, [50.0] * 7, [5.0] * 4, [[1.0] * 4]

    def pass_time(self, seconds, *, others=0.0, own=0.0, child=0.0):
        """Let time pass, in which programs use so many cores."""
        self.now += seconds
        self.own[0] += own * seconds
        if child:
            self.children[-1][1] += child * seconds
        self.all[0] += (others + own) * seconds
        self.all[2] += child * seconds
        self.all[3] += (4 - others - own - child) * seconds

    def cores(self, percpu):
        """The counters as psutil has them: all that is done is done on the first core, the last one is busy all the time."""
        return [Times(*self.all), *[Times(*[1.0] * 7)] * 3, Times(self.now, *[0.0] * 6)]

    def end_child(self):
        """Let the child process end: from now on its parent's counters have its time."""
        user, system, children_user, children_system = self.children.pop()
        self.own[2] += user + children_user
        self.own[3] += system + children_system

    def process(self):
        """The process of the test, as psutil has it."""
        children = [SimpleNamespace(cpu_times=lambda times=times: Own(*times)) for times in self.children]
        children += [SimpleNamespace(cpu_times=self.ended)]
        return SimpleNamespace(cpu_times=lambda: Own(*self.own), children=lambda recursive: children)

    def ended(self):
        raise psutil.NoSuchProcess(1)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "psutil", SimpleNamespace(
        Error=psutil.Error, cpu_times=made.cores, Process=made.process))  # fmt: skip
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.pass_time))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    return made


def test_others_are_all_but_the_process_and_what_it_has_started(machine):
    others = OtherPrograms()
    machine.pass_time(10, others=1.5, own=2.0, child=0.5)
    assert others.cores() == pytest.approx(1.5)
    machine.pass_time(10, own=2.0, child=1.0)
    machine.end_child()
    assert others.cores() == pytest.approx(0), "the time of a child that ended is counted once"
    machine.pass_time(2, others=3)
    assert others.cores() == pytest.approx(3), "since the last look"


def test_this_machine_can_be_looked_at():
    others = OtherPrograms()
    sum(range(10**6))
    assert 0 <= others.cores() <= 2 * len(own_cores())
    assert 1 <= len(own_cores()) <= os.cpu_count()


def test_without_a_choice_of_cores_all_are_ones_own(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert own_cores() == list(range(os.cpu_count()))


@pytest.mark.parametrize(("others", "fit"), [(0, 4), (0.3, 4), (0.7, 3), (1, 3), (2.2, 2), (4, 1), (9, 1)])
def test_there_is_room_for_a_thread_a_free_core_and_for_one_at_least(machine, others, fit):
    assert room(4, others) == fit
    assert room(2, others) == min(2, fit), "never more than there are"


def warned(machine, caplog, others, device=CPU):
    caplog.clear()
    cores.time.sleep = lambda seconds: machine.pass_time(seconds, others=others)
    warn_of_busy_cores(device)
    return caplog.text


def test_busy_cores_are_said_with_what_to_type(machine, caplog, monkeypatch):
    text = warned(machine, caplog, 1.0)
    assert "other programs use 1.0 of the 4 cores, and 4 threads" in text
    assert "OMP_NUM_THREADS=3 before the command" in text
    assert not warned(machine, caplog, 0.2)
    assert not warned(machine, caplog, 3.0, torch.device("cuda"))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not warned(machine, caplog, 3.0), "the number was chosen"
