"""What a plan can choose about a framework really takes effect in its server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from gevent.pool import Pool

from tests.projects import ROOT
from tests.services.backends import PROJECT, Backend, running
from tests.services.bad_input import bad_requests

pytestmark = pytest.mark.server

INSTRUMENTS = Path(__file__).parent / "instruments"
SERVICES = PROJECT.services()


def is_watchable(folder: Path) -> bool:
    """Whether the shared runtime infers, which the instruments watch; the others have tests of their own."""
    return any("Classifier" in file.read_text() for file in folder.glob("*.py"))


BATCHING = [
    name
    for name, service in SERVICES.items()
    if "batching" in service.facts.options and is_watchable(service.folder)
]
CALLERS = 8


@dataclass(frozen=True)
class Watched:
    """A backend whose every inference is written down."""

    backend: Backend
    log: Path

    def inferences(self, work: Callable[[], object]) -> list[tuple[int, int]]:
        """Process and number of images of each inference while `work` is done."""
        before = self.log.stat().st_size
        work()
        lines = self.log.read_text()[before:].splitlines()
        return [(int(pid), int(count)) for pid, count in (line.split() for line in lines)]


@contextmanager
def watched(key: str, folder: Path, **more: str) -> Iterator[Watched]:
    log = folder / "inferences"
    with running(key, folder, PYTHONPATH=f"{INSTRUMENTS}:{ROOT}", INFERENCES=str(log), **more) as backend:
        yield Watched(backend, log)


@pytest.mark.parametrize("name", BATCHING)
class TestBatching:
    def test_infers_several_requests_at_once_and_answers_each_for_itself(
        self, name: str, tmp_path: Path
    ) -> None:
        with watched(f"{name}+batching", tmp_path) as it:
            backend = it.backend
            inferences = it.inferences(lambda: _wrong_must_be_none(backend))
            images = len(backend.probe().images)
            # BentoML's client cuts requests off when it renews its pool: they are sent again.
            assert sum(count for _, count in inferences) >= CALLERS * images
            assert max(count for _, count in inferences) > 1
            self.bad_ones_do_not_spoil_the_good(backend)

    def bad_ones_do_not_spoil_the_good(self, backend: Backend) -> None:
        probes = [backend.probe() for _ in range(CALLERS)]
        bad = bad_requests(backend, probes[0], backend.service.protocol)["a text instead of an image"]

        def ask(number: int) -> object:
            probe = probes[number]
            if number % 2:
                return [probe.user.client.request(bad) for _ in range(10)]
            return [probe.wrong(index) for index in range(10)]

        answers = Pool(CALLERS).map(ask, range(CALLERS))
        assert answers == [[400] * 10 if number % 2 else [None] * 10 for number in range(CALLERS)]

    def test_is_off_unless_chosen(self, name: str, tmp_path: Path) -> None:
        with watched(name, tmp_path) as it:
            inferences = it.inferences(lambda: _wrong_must_be_none(it.backend))
            assert {count for _, count in inferences} == {1}
            assert len({pid for pid, _ in inferences}) == 1


def test_bentoml_is_not_ready_before_the_process_that_infers_batches(tmp_path: Path) -> None:
    with watched("bentoml+batching", tmp_path, LOADING_S="6") as it:
        assert it.backend.last_refusal == "GET /health answers 503"
        assert it.backend.first_answer is None


def test_rays_sockets_have_room_also_where_the_temporary_folder_has_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with running("ray_serve", tmp_path) as backend:
        assert backend.wrong() == []


@pytest.mark.parametrize("key", ["fastapi+workers=2", "ray_serve+num_replicas=2"])
class TestTwoProcesses:
    def test_share_the_work(self, key: str, tmp_path: Path) -> None:
        with watched(key, tmp_path) as it:
            inferences = it.inferences(lambda: [_wrong_must_be_none(it.backend) for _ in range(3)])
            assert len({pid for pid, _ in inferences}) == 2


class TestAuthorization:
    def test_of_torchserve_is_on_unless_chosen_otherwise(self, tmp_path: Path) -> None:
        with watched("torchserve", tmp_path) as it:
            probe = it.backend.probe()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(it.backend.server, "_scratch", tmp_path / "elsewhere")
                assert it.backend.probe().wrong(0) == f"{probe.images[0].name}: HTTP 400"
            assert probe.wrong(0) is None

    def test_of_torchserve_can_be_switched_off(self, tmp_path: Path) -> None:
        with watched("torchserve+authorization=false", tmp_path) as it:
            assert it.backend.wrong() == []
            assert not (it.backend.scratch / "key_file.json").exists()


def _wrong_must_be_none(backend: Backend) -> None:
    assert backend.wrong(callers=CALLERS) == []
