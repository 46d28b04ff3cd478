"""Cores, families of processes and their CPU, with real processes."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from scripts import guard
from scripts.cores import pinned, split_cores, usable_cores
from scripts.errors import CannotRun
from scripts.family import MARK, SHARED_MEMORY, Family, living
from scripts.guard import guarded, scratch_folder
from scripts.sampler import EXACT_EVERY, CpuClock, Memory, Sampler, _Seen, read_cheaply, read_exactly
from scripts.server import child_environment, port_is_free, refuse_busy_ports
from tests.waiting import until

BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
WAIT = "import signal; signal.pause()"


@pytest.fixture
def family() -> Iterator[Family]:
    marked = Family(uuid.uuid4().hex)
    yield marked
    marked.kill()


def start(family: Family, script: str, mark: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {MARK: family.mark + mark},
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


class TestTheSplitOfCores:
    @pytest.mark.parametrize(
        ("usable", "wanted", "server", "generator"),
        [
            ((0, 1), 1, (1,), (0,)),
            ((0, 1, 2, 3), 1, (3,), (0, 1, 2)),
            ((0, 1, 2, 3), 2, (2, 3), (0, 1)),
            ((4, 7), 1, (7,), (4,)),
        ],
    )
    def test_gives_each_its_own(
        self, usable: tuple[int, ...], wanted: int, server: tuple[int, ...], generator: tuple[int, ...]
    ) -> None:
        cores = split_cores(usable, wanted)
        assert (cores.server, cores.generator, cores.not_held) == (server, generator, ())

    def test_says_what_it_cannot_hold(self) -> None:
        assert "There is one core" in split_cores((3,), 1).not_held[0]
        assert "cannot pin" in split_cores(None, 1).not_held[0]
        assert split_cores((0, 1), 4).server == (1,)
        assert "should have 4 cores (threads) and got 1" in split_cores((0, 1), 4).not_held[0]

    @pytest.mark.skipif(
        len(usable_cores() or ()) < 2, reason="there is one core, or no pinning on this system"
    )
    def test_is_inherited_by_what_is_started_and_given_back(self, family: Family) -> None:
        before = usable_cores()
        assert before is not None
        with pinned(before[-1:]):
            child = start(family, "import os; print(os.sched_getaffinity(0))")
        assert child.communicate()[0].strip() == f"{{{before[-1]}}}"
        assert usable_cores() == before


class TestAFamily:
    def test_holds_a_daemon_that_left_the_tree(self, family: Family) -> None:
        script = f"""
            import subprocess, sys
            command, silent = [sys.executable, "-c", {WAIT!r}], subprocess.DEVNULL
            print(subprocess.Popen(command, start_new_session=True, stdout=silent).pid)
        """
        child = start(family, script)
        daemon = int(child.communicate()[0])
        until(lambda: daemon in [process.pid for process in living(family.members())], "the daemon is found")
        family.kill()
        assert not psutil.pid_exists(daemon) or psutil.Process(daemon).status() == psutil.STATUS_ZOMBIE

    def test_holds_a_child_that_dropped_its_environment(self, family: Family) -> None:
        script = f"""
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-c", {WAIT!r}], env={{}}, start_new_session=True)
            print(child.pid, flush=True)
            child.wait()
        """
        child = start(family, script)
        assert child.stdout is not None
        orphan = int(child.stdout.readline())
        until(lambda: orphan in [process.pid for process in family.members()], "the child is found")
        child.kill()
        child.wait()
        assert orphan in [process.pid for process in living(family.members())], (
            "it is remembered as an orphan"
        )
        family.kill()
        assert not living(family.members())

    def test_leaves_strangers_alone(self, family: Family) -> None:
        other = Family(uuid.uuid4().hex)
        stranger = start(other, WAIT)
        assert family.members() == []
        assert family.kill() == []
        assert stranger.poll() is None
        other.kill()
        stranger.wait()

    def test_of_a_run_holds_those_of_its_trials(self, family: Family) -> None:
        start(family, WAIT, mark=":12:server")
        until(family.members, "the trial's process is found")
        assert Family(f"{family.mark}:1:").members() == []


class TestAProcessThatHidesItsEnvironment:
    def test_is_found_by_the_folder_it_works_in(self, tmp_path: Path) -> None:
        mark, inside = uuid.uuid4().hex, tmp_path / "inside"
        inside.mkdir()
        hidden = subprocess.Popen([sys.executable, "-S", "-c", WAIT], env={}, cwd=inside)
        elsewhere = subprocess.Popen([sys.executable, "-S", "-c", WAIT], env={}, cwd=tmp_path)
        try:
            assert Family(mark).members() == []
            assert [process.pid for process in Family(mark, inside).members()] == [hidden.pid]
            assert Family(mark, inside).kill()
            assert hidden.wait(10) == -signal.SIGKILL
            assert elsewhere.poll() is None
        finally:
            hidden.kill()
            elsewhere.kill()
            hidden.wait()
            elsewhere.wait()


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory has no files on this system")
class TestSharedMemoryOfWhatIsKilled:
    SCRIPT = """
        import mmap, signal, sys
        file = open(sys.argv[1], "r+b")
        shared = mmap.mmap(file.fileno(), 0)
        print("mapped", flush=True)
        signal.pause()
    """

    def test_is_removed_unless_it_was_there_before(self, family: Family) -> None:
        made, old = (SHARED_MEMORY / f"modelswarm-{uuid.uuid4().hex}" for _ in range(2))
        try:
            for file in (made, old):
                file.write_bytes(bytes(4096))
                script = textwrap.dedent(self.SCRIPT).replace("sys.argv[1]", repr(str(file)))
                child = start(family, script)
                assert child.stdout is not None
                assert child.stdout.readline() == "mapped\n"
            before = psutil.Process().create_time() - 100
            with mock.patch("scripts.family._made_at", lambda p: before if p == old else p.stat().st_ctime):
                assert len(family.kill()) == 2
            assert not made.exists()
            assert old.exists()
        finally:
            made.unlink(missing_ok=True)
            old.unlink(missing_ok=True)


class TestTheGuard:
    def test_kills_what_its_owner_left_behind(self, family: Family, tmp_path: Path) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        script = f"""
            import os, signal
            from pathlib import Path
            from scripts.guard import guarded
            with guarded({family.mark!r}, Path({str(scratch)!r})):
                print("guarded", flush=True)
                signal.pause()
        """
        left = start(family, WAIT)
        owner = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
        )
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()
        owner.wait()
        assert left.wait(timeout=20) == -signal.SIGKILL
        until(lambda: not scratch.exists(), "the scratch folder is gone")

    def test_ends_with_its_block(self, family: Family, tmp_path: Path) -> None:
        before = {process.pid for process in psutil.Process().children()}
        with guarded(family.mark, tmp_path / "none"):
            assert {process.pid for process in psutil.Process().children()} - before
        assert {process.pid for process in psutil.Process().children()} == before


class TestAScratchFolder:
    def test_has_a_short_path_where_the_temporary_folder_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        made = scratch_folder()
        made.rmdir()
        assert len(str(made / "server")) < 25

    def test_lies_in_a_long_one_where_there_is_no_short_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(guard, "SHORT", Path("/nul"))
        assert scratch_folder().parent == tmp_path


class TestCpuSeconds:
    def test_of_a_child_that_lived_between_two_looks_count(self) -> None:
        clock = CpuClock()
        clock.advance({1: _Seen(1.0, 0.0, 0)})
        assert clock.advance({1: _Seen(1.1, 0.4, 0)}) == pytest.approx(0.5)

    def test_of_a_child_that_was_seen_and_ended_count_once(self) -> None:
        clock = CpuClock()
        clock.advance({1: _Seen(1.0, 0.0, 0), 2: _Seen(0.7, 0.0, 1)})
        assert clock.advance({1: _Seen(1.0, 0.9, 0)}) == pytest.approx(0.2)

    def test_of_an_orphan_that_ended_are_not_taken_off(self) -> None:
        clock = CpuClock()
        clock.advance({1: _Seen(1.0, 0.0, 0), 2: _Seen(5.0, 0.0, 99)})
        assert clock.advance({1: _Seen(1.3, 0.0, 0)}) == pytest.approx(0.3)

    def test_never_run_backwards_when_a_parent_ignores_its_children(self) -> None:
        clock = CpuClock()
        clock.advance({1: _Seen(1.0, 0.0, 0), 2: _Seen(0.7, 0.0, 1)})
        assert clock.advance({1: _Seen(1.1, 0.0, 0)}) == pytest.approx(0.1)

    def test_of_real_processes_that_come_and_go_add_up(self, family: Family, tmp_path: Path) -> None:
        script = f"""
            import subprocess, sys
            burn = {BURN!r}
            for _ in range(3):
                subprocess.run([sys.executable, "-S", "-c", burn.format(0.2)])
            exec(burn.format(0.3))
            print("done", flush=True)
            input()
        """
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=os.environ | {MARK: family.mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        sampler = Sampler(family, tmp_path / "pods.csv", "some", lambda: True)
        with sampler.running():
            assert child.stdout is not None
            child.stdout.readline()
        last = sampler.row()
        rows = list(csv.DictReader((tmp_path / "pods.csv").open()))
        assert last is not None
        child.communicate(b"\n")
        times = [float(row["time"]) for row in rows] + [float(str(last[0]))]
        cores = [float(row["cpu_cores"]) for row in rows] + [float(str(last[3]))]
        spans = [after - before for before, after in itertools.pairwise(times)]
        used = sum(core * span for core, span in zip(cores[1:], spans, strict=True)) + cores[0]
        assert used == pytest.approx(0.9 + 4 * 0.03, abs=0.35)
        named = {(row["pod"], row["container"], row["ready"]) for row in rows}
        # A quick machine is done before the first second: then the last row, taken by hand, is the only one.
        assert named | {(last[1], last[2], str(last[6]))} == {("some", "server", "1")}


class TestTheServersCores:
    @pytest.mark.skipif(
        len(usable_cores() or ()) < 2, reason="there is one core, or no pinning on this system"
    )
    def test_show_what_a_stranger_uses_of_them(self, family: Family, tmp_path: Path) -> None:
        cores = (usable_cores() or ())[-1:]
        stranger = Family(uuid.uuid4().hex)
        sampler = Sampler(family, tmp_path / "pods.csv", "some", lambda: True, cores)
        sampler.row()
        with pinned(cores):
            burning = start(stranger, BURN.format(0.5))
        burning.wait()
        sampler.row()
        assert (sampler.others_cores(0) or 0) > 0.4

    def test_are_not_known_where_nothing_is_pinned(self, family: Family, tmp_path: Path) -> None:
        sampler = Sampler(family, tmp_path / "pods.csv", "some", lambda: True)
        assert sampler.row() is None
        assert sampler.row() is not None
        assert sampler.others_cores(0) is None


HOLD_AND_FORK = """
import os, sys, time
held = b"x" * 50_000_000
for _ in range(3):
    if not os.fork():
        break
else:
    print(flush=True)
time.sleep(30)
"""


class FakeProcess:
    """A process of which the kernel's counters are known."""

    def __init__(self, pid: int, rss: int, shared: int, pss: int) -> None:
        self.pid, self.rss, self.shared, self.pss, self.walks = pid, rss, shared, pss, 0

    def memory_info(self) -> object:
        return self

    def memory_full_info(self) -> object:
        self.walks += 1
        return self


class TestMemory:
    def test_of_files_is_counted_once_by_the_cheap_counters(self) -> None:
        processes: Any = [FakeProcess(1, 100, 30, 0), FakeProcess(2, 80, 25, 0)]
        assert read_cheaply(processes) == 70 + 55 + 30

    def test_of_forked_processes_is_counted_once(self, family: Family) -> None:
        forked = start(family, HOLD_AND_FORK)
        assert forked.stdout is not None
        forked.stdout.readline()
        members = family.members()
        assert len(members) == 4
        alone = members[0].memory_info().rss
        assert alone > 50_000_000
        assert Memory().read(members) < alone + 3 * 10_000_000 < read_cheaply(members)

    def test_is_walked_only_now_and_then_and_where_processes_came_or_went(self) -> None:
        first, second, third = (FakeProcess(pid, 100, 10, 40) for pid in (1, 2, 3))
        memory = Memory()
        for _ in range(EXACT_EVERY):
            assert memory.read([first, second]) == 80  # type: ignore[list-item]
        assert first.walks == 1
        first.rss += 7
        assert memory.read([first, second]) == 80  # type: ignore[list-item]
        first.rss += 7
        assert memory.read([first, second]) == 87  # type: ignore[list-item]
        assert first.walks == 2
        assert memory.read([first, second, third]) == 120  # type: ignore[list-item]
        assert (first.walks, third.walks) == (3, 1)

    def test_of_a_single_process_needs_no_walk(self) -> None:
        only = FakeProcess(1, 100, 10, 40)
        assert Memory().read([only]) == 100  # type: ignore[list-item]
        assert not only.walks

    def test_is_the_cheap_figure_where_the_kernel_tells_no_shares(self) -> None:
        class Denied(FakeProcess):
            def memory_full_info(self) -> object:
                raise psutil.AccessDenied

        processes: Any = [Denied(1, 100, 10, 40), Denied(2, 100, 10, 40)]
        assert read_exactly(processes) == 190


class TestTheEnvironmentOfAProcess:
    @pytest.mark.parametrize(
        ("given", "lower", "upper"),
        [
            ({}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
            ({"NO_PROXY": ".lan"}, ".lan,127.0.0.1,localhost", ".lan,127.0.0.1,localhost"),
            ({"no_proxy": "a", "NO_PROXY": "b"}, "a,127.0.0.1,localhost", "b,127.0.0.1,localhost"),
            ({"NO_PROXY": "*"}, "*", "*"),
        ],
    )
    def test_asks_no_proxy_for_this_machine(self, given: dict[str, str], lower: str, upper: str) -> None:
        made = child_environment("mark", {}, {"https_proxy": "http://proxy.invalid:1"} | given)
        assert (made["no_proxy"], made["NO_PROXY"]) == (lower, upper)
        assert made["https_proxy"] == "http://proxy.invalid:1"


class TestPorts:
    def test_in_use_are_named_with_who_needs_them(self) -> None:
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert not port_is_free(port)
            with pytest.raises(CannotRun, match=rf"port {port} \(needed by some\)"):
                refuse_busy_ports({port: "some"}, "name another")
        assert port_is_free(port)
