"""One trial in a cluster that is played by a script: what is done, and how it ends."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import tarfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import yaml

from scripts.cluster.faults import PULL_PATIENCE_S
from scripts.cluster.kube import Kube
from scripts.cluster.lease import Holder
from scripts.cluster.load import ClusterLoad
from scripts.cluster.objects import TRIAL_NOTE, placed
from scripts.cluster.sampler import PodSampler
from scripts.cluster.server import ClusterServer
from scripts.cluster.target import OURS, ClusterTarget, Place, have_namespace
from scripts.cluster.volume import Volume
from scripts.errors import CannotRun
from scripts.plan import Plan, steps
from scripts.project import Project
from scripts.stop import Interrupted, Stop
from scripts.target import NeverReady, Unfetched
from scripts.trial import Bench, TrialRecord, make_trial
from tests.projects import ROOT

NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
Object = dict[str, Any]


def pod(app: str, name: str, state: Object | None = None, **status: Any) -> Object:
    container = "server" if app == "fastapi" else "locust"
    each = {"name": container, "image": f"modelswarm/{app}", "restartCount": 0, "lastState": {}}
    each |= {"state": state or {"running": {}}} | status.pop("container", {})
    return {
        "metadata": {"name": name, "uid": name, "labels": {NAME: app, COMPONENT: "server"}},
        "spec": {"nodeName": "n", "containers": [{"name": container}]},
        "status": {"phase": "Running", "containerStatuses": [each], **status},
    }


def leaving(each: Object) -> Object:
    """The pod while it is being deleted."""
    return each | {"metadata": each["metadata"] | {"deletionTimestamp": "2026-11-21T18:00:00Z"}}


def not_created(name: str, message: str) -> Object:
    """The event that tells why a ReplicaSet or Job gets no pod."""
    return {
        "metadata": {"uid": "e", "creationTimestamp": "2020-01-01T00:00:00Z"},
        "lastTimestamp": datetime.now(UTC).isoformat(),
        "involvedObject": {"name": name},
        "reason": "FailedCreate",
        "message": message,
    }


READY = {"conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}
PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}


class Scripted(Kube):
    """A cluster whose pods are given, and that remembers what was asked of kubectl."""

    def __init__(self) -> None:
        self.context, self.namespace = "here", "modelswarm"
        self._ahead_s = 0.0
        self.scenes: list[list[Object]] = [[]]
        self.asked: list[str] = []
        self.job: Object | None = None
        self.packed = b""
        self.cut_at: list[int] = []
        self.lines = b""
        self.logs: dict[str, bytes] = {}
        self.happened: list[Object] = []
        self.silent_node = False

    def pods(self, labels: str) -> list[Object]:
        scene = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
        if labels.startswith(f"{NAME}="):
            return [each for each in scene if each["metadata"]["labels"][NAME] == labels.partition("=")[2]]
        return scene

    def nodes(self) -> list[Object]:
        return []

    def events(self) -> list[Object]:
        return self.happened

    def node_metrics(self, node: str) -> str:
        return ""

    def log(self, pod: str, container: str, previous: bool = False) -> bytes:
        return self.logs.get(f"{pod} previous" if previous else pod, b"")

    def read(self, kind: str, name: str) -> Object | None:
        return self.job

    def kept(self, *arguments: str, file: Path | None = None) -> Any:
        return nullcontext()

    def kubectl(
        self,
        *arguments: str,
        text: str | None = None,
        data: bytes | None = None,
        patience_s: float | None = None,
    ) -> bytes:
        given = text or (data.decode() if data else "")
        self.asked.append(" ".join([*arguments, *(["<", given] if given else [])]))
        if self.silent_node and arguments[0] == "exec":
            raise CannotRun("kubectl exec: error dialing backend")
        if "tar" not in " ".join(arguments):
            return self.lines if "head -n 2" in " ".join(arguments) else b""
        return self.packed[: self.cut_at.pop(0)] if self.cut_at else self.packed

    def did(self, words: str) -> bool:
        return any(words in asked for asked in self.asked)


@pytest.fixture
def kube() -> Scripted:
    return Scripted()


@pytest.fixture
def server(kube: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterServer:
    monkeypatch.setattr("scripts.cluster.server.POLL_S", 0.0)
    service = Project(ROOT).select(["fastapi"])[0]
    manifest = list(yaml.safe_load_all((service.folder / "manifest.yaml").read_text()))
    return ClusterServer(kube, PodSampler(kube), service, manifest, tmp_path, Stop())


@pytest.fixture
def load(kube: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterLoad:
    monkeypatch.setattr("scripts.cluster.load.STOP_PATIENCE_S", 0.0)
    files = sorted((ROOT / "k8s" / "base").glob("[!k]*.yaml"))
    base = placed(
        [each for f in files for each in yaml.safe_load_all(f.read_text()) if each], "modelswarm", {}
    )
    sampler = PodSampler(kube)
    trial = "run-1/fastapi/steady/1"
    return ClusterLoad(kube, Volume(kube), sampler, base, "fastapi_user.py", tmp_path, trial, 2)


def nobody(phase: str) -> None:
    """Hear nothing."""


class TestAServerInACluster:
    def test_is_deployed_and_waited_for(self, server: ClusterServer, kube: Scripted) -> None:
        waiting = pod("fastapi", "fastapi-1", conditions=[{"type": "PodScheduled", "status": "True"}])
        kube.scenes = [[], [waiting], [pod("fastapi", "fastapi-1", **READY)]]
        heard: list[str] = []
        server.start(heard.append)
        assert kube.did("apply --server-side")
        assert heard == ["waiting for its pod", "waiting until it is ready"]
        assert server.ended() is None
        assert server.host.startswith("http://127.0.0.1:")
        assert server.load_host == "http://fastapi:8000"

    def test_without_an_image_is_given_up_at_once(self, server: ClusterServer, kube: Scripted) -> None:
        kube.scenes = [[pod("fastapi", "fastapi-1", PULLING, phase="Pending")]]
        with pytest.raises(NeverReady, match=r"^server pod fastapi-1 does not start: its image modelswarm"):
            server.start(nobody)

    def test_that_crashes_quotes_the_log_of_the_container_that_ended(
        self, server: ClusterServer, kube: Scripted
    ) -> None:
        crashed = {"restartCount": 1, "lastState": {"terminated": {"exitCode": 1}}}
        kube.scenes = [[pod("fastapi", "fastapi-1", container=crashed)]]
        kube.logs = {"fastapi-1 previous": b"the model file\nis damaged\n", "fastapi-1": b"starting\n"}
        with pytest.raises(NeverReady) as failed:
            server.start(nobody)
        assert str(failed.value) == (
            "server pod fastapi-1 exited with status 1 and was restarted; "
            "its log ends: the model file | is damaged"
        )

    def test_whose_probe_never_holds_quotes_the_probe(
        self, server: ClusterServer, kube: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 100_000, 50))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
        kube.scenes = [[pod("fastapi", "fastapi-1")]]
        kube.happened = [
            {
                "metadata": {"uid": "e", "creationTimestamp": "2026-11-21T18:00:00Z"},
                "involvedObject": {"name": "fastapi-1"},
                "reason": "Unhealthy",
                "message": "Readiness probe failed: statuscode: 503",
            }
        ]
        sentence = (
            r"^pod fastapi-1 was not ready within \d+ s \(Readiness probe failed: statuscode: 503\); its log"
        )
        with pytest.raises(NeverReady, match=sentence):
            server.start(nobody)

    def test_whose_pod_is_deleted_under_load_has_ended(self, server: ClusterServer, kube: Scripted) -> None:
        kube.scenes = [[pod("fastapi", "fastapi-1", **READY)], [pod("fastapi", "fastapi-2", **READY)]]
        server.start(nobody)
        server._sampler.look()
        assert server.ended() == "pod fastapi-1 was deleted"

    def test_whose_pod_is_deleted_leaves_its_log_and_quotes_it(
        self, server: ClusterServer, kube: Scripted, tmp_path: Path
    ) -> None:
        ready = pod("fastapi", "fastapi-1", **READY)
        kube.scenes = [[ready], [leaving(ready), pod("fastapi", "fastapi-2", **READY)]]
        kube.logs = {"fastapi-1": b"out of disk", "fastapi-2": b"all well"}
        server.start(nobody)
        server._sampler.look()
        assert server.ended() == "pod fastapi-1 was deleted"
        kube.scenes, kube.logs = [[pod("fastapi", "fastapi-2", **READY)], []], {"fastapi-2": b"all well"}
        assert server.last_words() == "its log ends: out of disk"
        server.stop()
        assert "out of disk" in (tmp_path / "server.log").read_text()
        assert "all well" in (tmp_path / "server.log").read_text()

    def test_leaves_its_logs_with_those_before_a_restart(
        self, server: ClusterServer, kube: Scripted, tmp_path: Path
    ) -> None:
        kube.scenes = [[pod("fastapi", "fastapi-1", **READY)], []]
        kube.logs = {"fastapi-1 previous": b"before", "fastapi-1": b"after"}
        server.stop()
        assert (tmp_path / "server.log").read_text() == (
            "==> pod fastapi-1 server before its restart <==\nbefore\n==> pod fastapi-1 server <==\nafter\n"
        )
        assert kube.did("delete deployment fastapi")
        assert kube.did("delete service fastapi")

    def test_whose_log_cannot_be_kept_is_removed_all_the_same(
        self, server: ClusterServer, kube: Scripted, tmp_path: Path
    ) -> None:
        (tmp_path / "server.log").mkdir()
        with pytest.raises(IsADirectoryError):
            server.stop()
        assert kube.did("delete deployment fastapi")

    def test_that_has_found_no_node_for_a_moment_is_not_given_up_by_a_clock_that_is_ahead(
        self, server: ClusterServer, kube: Scripted
    ) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        theirs = datetime.now(UTC) - timedelta(hours=1)
        waiting = condition | {"lastTransitionTime": theirs.isoformat()}
        kube._ahead_s = -3600
        kube.scenes = [[pod("fastapi", "fastapi-1", phase="Pending", conditions=[waiting])]]
        server._sampler.look()
        assert server.ended() is None
        kube._ahead_s = 0
        assert server.ended() == "pod fastapi-1 finds no node"

    def test_keeps_the_events_of_a_cluster_whose_clock_is_behind(
        self, server: ClusterServer, kube: Scripted, tmp_path: Path
    ) -> None:
        kube._ahead_s = -3600
        at = (datetime.now(UTC) - timedelta(seconds=3540)).isoformat()
        kube.happened = [not_created("fastapi-1", "late") | {"lastTimestamp": at, "reason": "Pulled"}]
        kube.scenes = [[pod("fastapi", "fastapi-1", **READY)], []]
        server.start(nobody)
        server.stop()
        assert "late" in (tmp_path / "events.csv").read_text()

    def test_that_is_gone_on_with_has_no_events_from_before_it_was_deployed(
        self, server: ClusterServer, kube: Scripted, tmp_path: Path
    ) -> None:
        kube.job = {"metadata": {"creationTimestamp": "2026-11-21T18:00:00Z"}}
        kube.happened = [
            not_created("fastapi-1", name) | {"metadata": {"uid": name}, "lastTimestamp": at}
            for name, at in (
                ("an older trial's", "2026-11-21T17:30:00Z"),
                ("its own", "2026-11-21T18:00:05Z"),
            )
        ]
        kube.scenes = [[pod("fastapi", "fastapi-1", **READY)]]
        with server.sampled():
            pass
        told = (tmp_path / "events.csv").read_text()
        assert "its own" in told
        assert "an older trial's" not in told

    def test_that_is_gone_on_with_is_missed_when_it_is_deleted(
        self, server: ClusterServer, kube: Scripted
    ) -> None:
        kube.scenes = [[pod("fastapi", "fastapi-1", **READY)]]
        with server.sampled():
            assert server.ended() is None
            kube.scenes = [[]]
            server._sampler.look()
            assert server.ended() == "pod fastapi-1 was deleted"

    def test_of_which_the_cluster_makes_no_pod_quotes_the_reason(
        self, server: ClusterServer, kube: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 100_000, 20))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
        kube.happened = [not_created("fastapi-5d9", "exceeded quota: q")]
        with pytest.raises(NeverReady, match=r"^no pod of fastapi can be made: exceeded quota: q$"):
            server.start(nobody)


class InAFolder(Scripted):
    """A cluster whose one container is a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def kubectl(
        self,
        *arguments: str,
        text: str | None = None,
        data: bytes | None = None,
        patience_s: float | None = None,
    ) -> bytes:
        inside = arguments[arguments.index("--") + 1 :]
        done = subprocess.run(inside, cwd=self.folder, capture_output=True, check=False)
        if done.returncode:
            raise CannotRun(f"kubectl exec: {done.stderr.decode()}")
        return done.stdout


class TestTheKeysOfAServerInACluster:
    @pytest.fixture
    def torchserve(self, tmp_path: Path) -> ClusterServer:
        (service,) = Project(ROOT).select(["torchserve"])
        manifest = list(yaml.safe_load_all((service.folder / "manifest.yaml").read_text()))
        kube = InAFolder(tmp_path)
        return ClusterServer(kube, PodSampler(kube), service, manifest, tmp_path, Stop())

    def test_are_the_text_of_the_file_in_its_pod(self, torchserve: ClusterServer, tmp_path: Path) -> None:
        (tmp_path / "key_file.json").write_text('{"inference": {}}')
        assert torchserve.caller_variables == {"MODELSWARM_KEYS": '{"inference": {}}'}

    def test_are_none_where_it_made_no_file(self, torchserve: ClusterServer) -> None:
        assert torchserve.caller_variables == {}

    def test_that_cannot_be_read_are_missed(self, torchserve: ClusterServer, tmp_path: Path) -> None:
        (tmp_path / "key_file.json").mkdir()
        with pytest.raises(CannotRun, match="directory"):
            _ = torchserve.caller_variables


def archive(**files: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


class TestATrialOnTheVolume:
    FILES = MappingProxyType({"generator.csv": "1,2\n" * 500, "summary.json": "{}", "locust.log": "done"})

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99])
    def test_that_comes_without_its_end_is_asked_for_again(
        self, kube: Scripted, tmp_path: Path, share: float
    ) -> None:
        kube.packed = archive(**self.FILES)
        kube.cut_at = [int(share * len(kube.packed))]
        Volume(kube).fetch("run-1/fastapi/steady/1", tmp_path)
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == self.FILES
        assert len(kube.asked) == 2

    def test_that_never_comes_whole_says_so(self, kube: Scripted, tmp_path: Path) -> None:
        kube.packed = archive(**self.FILES)[:-1]
        sentence = r"^run-1/fastapi/steady/1 came damaged from the volume, 3 times in a row: Compressed file"
        with pytest.raises(CannotRun, match=sentence):
            Volume(kube).fetch("run-1/fastapi/steady/1", tmp_path)

    def test_that_cannot_be_written_names_the_folder(self, kube: Scripted, tmp_path: Path) -> None:
        kube.packed = archive(**self.FILES)
        (tmp_path / "1").write_text("a file where the folder should be")
        with pytest.raises(CannotRun, match=rf"^a/1 cannot be written to {tmp_path}/1: File exists$"):
            Volume(kube).fetch("a/1", tmp_path / "1")


class TestTheNamespace:
    def test_is_made_where_it_is_missing(self, kube: Scripted) -> None:
        have_namespace(kube, {"kind": "Namespace", "metadata": {"name": "room"}})
        assert kube.did("apply")

    def test_that_is_there_stays_as_it_is(self, kube: Scripted) -> None:
        kube.job = {"kind": "Namespace", "metadata": {"name": "room", "labels": {"theirs": "yes"}}}
        have_namespace(kube, {"kind": "Namespace", "metadata": {"name": "room"}})
        assert not kube.did("apply")

    def test_that_may_not_be_looked_at_is_taken_to_be_there(
        self, kube: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(*_: str) -> Object:
            raise CannotRun("namespaces is forbidden")

        monkeypatch.setattr(kube, "read", forbidden)
        have_namespace(kube, {"kind": "Namespace", "metadata": {"name": "room"}})
        assert not kube.did("apply")


class Room(Scripted):
    """A namespace whose ConfigMap has a run, and whose volume may be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.scenes = [[pod("results", "r", **READY)]]
        self.held: Object | None = None
        self.refusal = None

    def read(self, kind: str, name: str) -> Object | None:
        return self.job if kind == "configmap" else {"metadata": {}}

    def lease(self, name: str) -> Object | None:
        return self.held

    def put_lease(self, name: str, body: Object, new: bool) -> bool:
        self.held = copy.deepcopy(body)
        self.held["metadata"]["resourceVersion"] = "1"
        return True

    def holds(self, folder: Path) -> None:
        self.job = {"data": {"run": folder.name, "run.json": (folder / "run.json").read_text()}}


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room()
    files = sorted((ROOT / "k8s" / "base").glob("[!k]*.yaml"))
    base = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    monkeypatch.setattr("scripts.cluster.target.Kube", lambda *_: room)
    monkeypatch.setattr("scripts.cluster.target.rendered", lambda _: base)
    monkeypatch.setattr("scripts.cluster.target.guarded", lambda *_: nullcontext())
    return room


@pytest.fixture
def target(room: Room) -> ClusterTarget:
    plan = Plan.model_validate({"name": "p", "scenario": [{"name": "s", "rate": 1, "run_time": "1s"}]})
    return ClusterTarget(Project(ROOT), plan, 2, Place("kind", "here", "modelswarm", {}), Stop())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run with a trial that is here, one of another machine, one that could not be fetched, one failed."""
    here = tmp_path / "run-1" / "fastapi" / "steady" / "1"
    here.mkdir(parents=True)
    (here / "summary.json").write_text("mine")
    trials = [{"path": f"fastapi/steady/{n}", "status": "ok"} for n in (1, 2)]
    trials += [{"path": f"fastapi/steady/{n}", "status": "failed", "unfetched": n == 3} for n in (3, 4)]
    (tmp_path / "run-1" / "run.json").write_text(json.dumps({"trials": trials}))
    return tmp_path / "run-1"


VOLUME = "delete persistentvolumeclaim results"


class TestATrialThatWasMeasuredAndNotFetched:
    def test_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def measure(*_: object) -> None:
            raise Unfetched("its record could not be fetched: the node is silent")

        monkeypatch.setattr("scripts.trial._Trial.measure", measure)
        (service,) = Project(ROOT).select(["fastapi"])
        plan = Plan.model_validate({"name": "p", "scenario": [{"name": "s", "rate": 1, "run_time": "1s"}]})
        step = steps(plan, ["fastapi"])[0]
        record = TrialRecord.of(step)
        there = SimpleNamespace(stop=lambda: [])
        target: Any = SimpleNamespace(server=lambda *_: there, load=lambda *_: there)
        make_trial(Bench(Project(ROOT), plan, target, tmp_path, Stop()), step, service, record, nobody)
        assert (record.status, record.unfetched) == ("failed", True)
        assert record.error == "its record could not be fetched: the node is silent"


class TestTheNamespaceAfterARun:
    def test_is_left_empty(self, target: ClusterTarget, room: Room, made: Path) -> None:
        with target.opened(made):
            pass
        assert room.did(VOLUME)
        assert room.did("delete lease modelswarm")

    def test_keeps_nothing_that_was_not_fetched_at_first_and_is_in_the_end(
        self, target: ClusterTarget, room: Room, made: Path
    ) -> None:
        with target.opened(made):
            target.volume.owed["run-1/fastapi/steady/5"] = made / "fastapi" / "steady" / "5"
            room.packed = archive(**{"summary.json": "{}"})
        assert (made / "fastapi" / "steady" / "5" / "summary.json").read_text() == "{}"
        assert room.did(VOLUME)

    @pytest.mark.parametrize("also", [None, Interrupted()])
    def test_keeps_what_cannot_be_fetched_with_who_may_fetch_it(
        self, target: ClusterTarget, room: Room, made: Path, also: Exception | None
    ) -> None:
        sentence = (
            r"^run-1/fastapi/steady/5 could not be fetched: kubectl exec: error dialing backend\. "
            r"The cluster keeps it, and `modelswarm attach run-1` fetches it\.$"
        )

        def fall_silent() -> None:
            target.volume.owed["run-1/fastapi/steady/5"] = made / "fastapi" / "steady" / "5"
            room.silent_node, room.asked = True, []
            if also:
                raise also

        with pytest.raises(Unfetched, match=sentence), target.opened(made):
            fall_silent()
        assert not room.did(VOLUME)
        assert not room.did("delete configmap")
        assert not room.did("delete lease")
        (labels,) = [asked.partition("selector=")[2] for asked in room.asked if "selector" in asked]
        assert labels == f"{OURS},{NAME}!=results"
        assert room.held is not None
        assert Holder.of(room.held).detached

    def test_has_no_volume_where_the_cluster_makes_no_pod_for_it(
        self, target: ClusterTarget, room: Room, made: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 100_000, 20))
        monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
        monkeypatch.setattr(target._stop, "sleep", lambda _: None)
        room.scenes, room.happened = [[]], [not_created("results-6c8", "exceeded quota: q")]
        sentence = r"^The volume for results cannot be had: no pod of results can be made: exceeded quota: q$"
        with pytest.raises(CannotRun, match=sentence), target.opened(made):
            pass

    def test_of_a_run_that_is_gone_on_with_has_its_trials_fetched_before_the_volume_goes(
        self, target: ClusterTarget, room: Room, made: Path
    ) -> None:
        room.holds(made)
        room.packed = archive(**{"summary.json": "{}"})
        with target.opened(made):
            summaries = {file.parent.name: file.read_text() for file in made.rglob("summary.json")}
            assert summaries == {"1": "mine", "2": "{}", "3": "{}"}
            assert not room.did("delete")

    def test_of_a_run_that_is_gone_on_with_in_vain_stays(
        self, target: ClusterTarget, room: Room, made: Path
    ) -> None:
        room.holds(made)
        room.scenes = [[pod("results", "r", PULLING, phase="Pending")]]
        room.silent_node = True
        with pytest.raises(Unfetched, match="steady/2, run-1/fastapi/steady/3"), target.opened(made):
            pass
        assert not room.did(VOLUME)


class TestLocustInACluster:
    def start(self, load: ClusterLoad, kube: Scripted, *pods: Object) -> None:
        load.start("http://fastapi:8000", ["--rate", "5"], {})
        kube.scenes = [list(pods)]
        load._sampler.look()

    def test_is_a_master_and_as_many_workers_as_were_asked_for(
        self, load: ClusterLoad, kube: Scripted
    ) -> None:
        self.start(load, kube)
        (applied,) = [asked for asked in kube.asked if asked.startswith("apply")]
        job, workers = yaml.safe_load_all(applied.partition("< ")[2])
        assert "--record /results/run-1/fastapi/steady/1 --rate 5" in " ".join(
            job["spec"]["template"]["spec"]["containers"][0]["args"]
        )
        assert workers["spec"]["replicas"] == 2

    def test_finds_a_recording_of_this_machine_on_the_volume(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        (tmp_path / "arrivals.csv").write_text("0.5\n1.5\n")
        load.start(
            "http://fastapi:8000", ["--shape", "replay", "--replay", str(tmp_path / "arrivals.csv")], {}
        )
        assert kube.did("steady/1-replay.csv' < 0.5\n1.5\n")
        assert kube.did("--replay\n        - /results/run-1/fastapi/steady/1-replay.csv\n")

    @pytest.mark.parametrize("status", [0, 1, 2])
    def test_ends_with_the_masters_exit_status(self, load: ClusterLoad, kube: Scripted, status: int) -> None:
        self.start(load, kube, pod("locust-master", "m"))
        assert load.exit_status() is None
        kube.scenes = [[pod("locust-master", "m", {"terminated": {"exitCode": status}}, phase="Succeeded")]]
        load._sampler.look()
        assert load.exit_status() == status

    def test_whose_master_is_killed_for_its_memory_says_so(self, load: ClusterLoad, kube: Scripted) -> None:
        oom = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        self.start(load, kube, pod("locust-master", "m", oom))
        with pytest.raises(CannotRun, match=r"^Locust's pod m was killed for its memory \(OOMKilled"):
            load.exit_status()

    def test_whose_worker_cannot_start_says_so_only_before_the_load(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        worker = pod("locust-worker", "w", PULLING, phase="Pending")
        self.start(load, kube, pod("locust-master", "m"), worker)
        with pytest.raises(CannotRun, match=r"^Locust's pod w does not start: its image"):
            load.exit_status()
        (tmp_path / "generator.csv").write_text("time,worker\n1,w\n")
        assert load.exit_status() is None
        (tmp_path / "generator.csv").write_text("")  # its stream dropped, and it is mirrored anew
        assert load.exit_status() is None

    def test_of_which_nothing_is_known_for_long_says_so(self, load: ClusterLoad, kube: Scripted) -> None:
        self.start(load, kube)
        load._sampler.trouble = "the API server of here has been away for 90 s"
        with pytest.raises(CannotRun, match="nothing is known of its pods: the API server of here"):
            load.exit_status()

    def test_has_its_record_and_logs_fetched_before_it_is_removed(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        (tmp_path / "generator.csv").write_text("half a li")  # mirrored
        ended = pod("locust-master", "m", {"terminated": {"exitCode": 0}}, phase="Succeeded")
        self.start(load, kube, ended, pod("locust-worker", "w"))
        kube.packed = archive(**{"summary.json": "{}", "generator.csv": "whole"})
        kube.logs = {"m": b"all done", "w": b"worker done"}
        load.stop()
        assert (tmp_path / "summary.json").read_text() == "{}"
        assert (tmp_path / "generator.csv").read_text() == "whole"
        assert (tmp_path / "locust.log").read_text().endswith("==> pod m locust <==\nall done\n")
        fetched = next(n for n, asked in enumerate(kube.asked) if "tar" in asked)
        removed = max(n for n, asked in enumerate(kube.asked) if asked.startswith("delete"))
        assert fetched < removed
        assert not kube.did("os.kill(1")  # it had ended by itself

    def test_keeps_the_log_of_a_worker_that_is_deleted_under_load(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        (tmp_path / "generator.csv").write_text("time,worker\n1,w\n")
        kube.logs = {"w": b"the node is drained"}
        self.start(load, kube, pod("locust-master", "m"), leaving(pod("locust-worker", "w")))
        assert load.exit_status() is None
        kube.scenes, kube.logs = [[pod("locust-master", "m")]], {"m": b"all done"}
        kube.packed = archive()
        load.stop()
        log = (tmp_path / "locust.log").read_text()
        assert log == "==> pod w locust <==\nthe node is drained\n==> pod m locust <==\nall done\n"

    def test_that_is_stopped_is_asked_to_end_first(self, load: ClusterLoad, kube: Scripted) -> None:
        self.start(load, kube, pod("locust-master", "m"))
        kube.packed = archive()
        load.stop()
        assert kube.did("exec m -c locust -- python -c import os, signal; os.kill(1, signal.SIGTERM)")

    def test_on_a_silent_node_is_removed_and_says_what_is_lost(
        self, load: ClusterLoad, kube: Scripted
    ) -> None:
        self.start(load, kube, pod("locust-master", "m"))
        kube.silent_node = True
        with pytest.raises(CannotRun, match="error dialing backend"):
            load.stop()
        assert kube.did("delete job locust-master")
        assert kube.did("delete deployment locust-worker")

    def test_that_has_measured_and_cannot_be_fetched_is_owed(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        self.start(load, kube, pod("locust-master", "m", {"terminated": {"exitCode": 0}}, phase="Succeeded"))
        assert load.exit_status() == 0
        kube.silent_node = True
        with pytest.raises(Unfetched, match=r"^its record could not be fetched: kubectl exec: error dialing"):
            load.stop()
        assert load._volume.owed == {"run-1/fastapi/steady/1": tmp_path}

    def test_that_is_fetched_is_owed_no_more(self, load: ClusterLoad, kube: Scripted) -> None:
        self.start(load, kube, pod("locust-master", "m", {"terminated": {"exitCode": 0}}, phase="Succeeded"))
        assert load.exit_status() == 0
        kube.packed = archive()
        load.stop()
        assert load._volume.owed == {}

    def test_whose_log_cannot_be_written_here_is_removed_all_the_same(
        self, load: ClusterLoad, kube: Scripted, tmp_path: Path
    ) -> None:
        self.start(load, kube, pod("locust-master", "m", {"terminated": {"exitCode": 0}}, phase="Succeeded"))
        (tmp_path / "locust.log").mkdir()
        with pytest.raises(Unfetched, match="Is a directory"):
            load.stop()
        assert kube.did("delete job locust-master")

    def test_whose_master_is_deleted_says_so(self, load: ClusterLoad, kube: Scripted) -> None:
        self.start(load, kube, pod("locust-master", "m"))
        assert load.exit_status() is None
        kube.scenes = [[]]
        load._sampler.look()
        with pytest.raises(CannotRun, match=r"^Locust's pod m was deleted$"):
            load.exit_status()

    def test_whose_master_the_cluster_does_not_make_quotes_the_reason(
        self, load: ClusterLoad, kube: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube.happened = [not_created("locust-master", "exceeded quota: q")]
        self.start(load, kube)
        assert load.exit_status() is None
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + 60)
        with pytest.raises(CannotRun, match=r"^no pod of locust-master can be made: exceeded quota: q$"):
            load.exit_status()

    def test_some_of_whose_workers_the_cluster_does_not_make_quotes_the_reason(
        self, load: ClusterLoad, kube: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kube.happened = [not_created("locust-worker-5d9", "exceeded quota: q")]
        self.start(load, kube, pod("locust-master", "m"), pod("locust-worker", "w"))
        assert load.exit_status() is None
        now_s = time.time()
        monkeypatch.setattr(time, "time", lambda: now_s + 60)
        with pytest.raises(CannotRun, match=r"^no pod of locust-worker can be made: exceeded quota: q$"):
            load.exit_status()

    def test_that_a_killed_command_began_has_begun_when_the_volume_says_so(
        self, load: ClusterLoad, kube: Scripted
    ) -> None:
        kube.job = {"metadata": {"annotations": {TRIAL_NOTE: "run-1/fastapi/steady/1"}}}
        kube.lines = b"time,worker\n1,w\n"
        assert load.under_way()
        kube.scenes = [
            [pod("locust-master", "m"), pod("locust-worker", "w", {"terminated": {"exitCode": 1}})]
        ]
        load._sampler.look()
        assert load.exit_status() is None

    def test_waits_for_workers_that_have_to_pull_their_image(self, load: ClusterLoad, kube: Scripted) -> None:
        self.start(load, kube)
        assert kube.did(f"--expect-workers-max-wait\n        - '{PULL_PATIENCE_S:.0f}'\n")
        assert ClusterTarget.load_grace_s > PULL_PATIENCE_S

    def test_that_a_killed_command_began_is_recognised(self, load: ClusterLoad, kube: Scripted) -> None:
        assert not load.under_way()
        kube.job = {"metadata": {"annotations": {TRIAL_NOTE: "run-1/fastapi/steady/2"}}}
        assert not load.under_way()
        kube.job = {"metadata": {"annotations": {TRIAL_NOTE: "run-1/fastapi/steady/1"}}}
        assert load.under_way()
