"""Where a run is made, and which run is gone on with."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from scripts.cluster import attach, kind
from scripts.cluster.attach import _newest, called, find, left_open, place_of
from scripts.cluster.kube import Away, Object
from scripts.cluster.lease import Holder, Taken, me, now
from scripts.cluster.target import Place
from scripts.cluster.web_password import web_password
from scripts.errors import UNMEASURED, CannotRun, UserError
from scripts.places import REGISTRY_VARIABLE, Wish, clear, cluster_at_hand, lacking, resolve
from scripts.plan import read_plan
from scripts.project import Project
from scripts.run import RunRecord, choose_services
from scripts.stop import Interrupted
from scripts.trial import TrialRecord
from tests.projects import ROOT


@pytest.fixture
def said() -> StringIO:
    return StringIO()


@pytest.fixture
def console(said: StringIO) -> Console:
    return Console(file=said, width=200)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "services").mkdir()
    return Project(tmp_path)


def usable(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    monkeypatch.setattr(kind, "unusable", lambda project: reason)
    monkeypatch.setattr(kind, "unmakeable", lambda project: None)


class TestTheTarget:
    def test_auto_is_local_where_kind_cannot_be_used_and_says_why(
        self, project: Project, console: Console, said: StringIO
    ) -> None:
        assert resolve(project, Wish("auto"), console) == "local"
        assert said.getvalue() == (
            "Target: local (kind cannot be used: the project has no kind-config.yaml).\n"
        )

    def test_auto_is_kind_where_it_can(
        self, project: Project, console: Console, said: StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usable(monkeypatch, None)
        assert resolve(project, Wish("auto"), console) == "kind"
        assert said.getvalue() == "Target: kind (Docker and kind are there).\n"

    def test_kind_that_cannot_be_used_is_refused_with_the_reason(
        self, project: Project, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usable(monkeypatch, "Docker's daemon does not answer")
        with pytest.raises(
            UserError, match=r"cannot be used: Docker's daemon does not answer\. `--target local`"
        ):
            resolve(project, Wish("kind"), console)

    @pytest.mark.parametrize(
        ("wish", "sentence"),
        [
            (Wish("klind"), "There is no target 'klind'; did you mean 'kind'"),
            (
                Wish("local", context="c"),
                "--context c goes with --target cluster only, and here the target is local",
            ),
            (Wish("local", registry="r"), "--registry r goes with --target cluster only"),
            (Wish("local", detach=True), "--detach goes with --target kind or cluster"),
        ],
    )
    def test_what_does_not_go_together_is_refused(
        self, project: Project, console: Console, wish: Wish, sentence: str
    ) -> None:
        with pytest.raises(UserError, match=sentence):
            resolve(project, wish, console)

    def test_a_registry_that_the_environment_names_is_for_clusters_and_in_nobodys_way(
        self, project: Project, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(REGISTRY_VARIABLE, "registry.example/team")
        wish = Wish("local", registry="registry.example/team")
        assert resolve(project, wish, console) == "local"


class TestAFrameworkInACluster:
    def test_needs_an_image_and_manifests_and_no_environment(self, tmp_path: Path) -> None:
        service = Project(ROOT).select(["fastapi"])[0]
        assert lacking(service) is None
        (folder := tmp_path / "fastapi").mkdir()
        from dataclasses import replace

        assert lacking(replace(service, folder=folder)) == "services/fastapi/Dockerfile is not there"

    def test_is_not_measured_there_with_an_option_that_only_this_machine_can_have(self) -> None:
        [service] = Project(ROOT).select(["huggingface"])
        assert lacking(service) is None
        with pytest.raises(
            UserError, match=r"huggingface\+weights=hub cannot be measured: servers in a cluster"
        ):
            choose_services(Project(ROOT), ["huggingface+weights=hub"], lacking)


def write_run(project: Project, name: str, **head: object) -> Path:
    folder = project.results / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"trials": [], **head}))
    return folder


KEPT = '{"trials": []}'
ROOM: Any = SimpleNamespace(namespace="room", context="here")


def holder(who: str, folder: Path) -> Holder:
    return Holder("three", who, "", 1, str(folder), True, 0.0)


def in_the_cluster(monkeypatch: pytest.MonkeyPatch, holder: Holder | None) -> None:
    """Let the cluster hold the run `three`, driven by somebody."""
    monkeypatch.setattr("scripts.cluster.attach.kept_record", lambda kube: ("three", KEPT))
    monkeypatch.setattr("scripts.cluster.attach._holder", lambda kube, run: holder)


class TestTheRunToGoOnWith:
    def test_is_found_by_name_or_by_path(self, project: Project) -> None:
        folder = write_run(project, "one")
        assert find(project, "one", None)[0] == folder
        assert find(project, str(folder), None)[0] == folder

    def test_that_is_nowhere_is_named(self, project: Project) -> None:
        with pytest.raises(UserError, match="There is no run two in"):
            find(project, "two", None)

    def test_that_only_the_cluster_has_gets_a_folder_here(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_the_cluster(monkeypatch, None)
        folder, text = find(project, None, ROOM)
        assert folder == project.results / "three"
        assert (folder / "run.json").read_text() == text == KEPT

    def test_that_this_machine_writes_elsewhere_is_found_there(
        self, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (there := tmp_path / "out" / "three").mkdir(parents=True)
        (there / "run.json").write_text("{}")
        in_the_cluster(monkeypatch, holder(me(), there))
        assert find(project, None, ROOM) == (there, "{}")
        assert not (project.results / "three").exists()

    def test_that_somebody_else_drives_gets_no_copy_that_nobody_would_write_to(
        self, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_the_cluster(monkeypatch, holder("eve@elsewhere", tmp_path))
        monkeypatch.setattr("scripts.cluster.attach.driven", lambda *_: True)
        with pytest.raises(Taken, match="used by the run three of eve@elsewhere"):
            find(project, "three", ROOM)
        assert not (project.results / "three").exists()

    @pytest.mark.parametrize(("here", "there", "newest"), [(1, 2, "kept"), (2, 1, "own"), (1, 1, "own")])
    def test_goes_on_from_the_record_that_knows_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: int, there: int, newest: str
    ) -> None:
        def record(whose: str, ended: int) -> str:
            trials = [{"ended": "now"}] * ended + [{"ended": None}] * (3 - ended)
            return json.dumps({"whose": whose, "trials": trials})

        (tmp_path / "run.json").write_text(record("own", here))
        kept = tmp_path.name, record("kept", there)
        monkeypatch.setattr("scripts.cluster.attach.kept_record", lambda kube: kept)
        text = _newest(tmp_path, ROOM)
        assert text is not None
        assert json.loads(text)["whose"] == newest

    def test_is_called_by_its_name_only_where_the_name_finds_it(
        self, project: Project, tmp_path: Path
    ) -> None:
        assert called(project, project.results / "one") == "one"
        assert called(project, tmp_path / "my runs" / "one") == f"'{tmp_path}/my runs/one'"

    def test_goes_on_where_it_was_begun(self, tmp_path: Path) -> None:
        cluster = {
            "context": "kind-modelswarm",
            "namespace": "room",
            "images": {},
            "detached": True,
            "workers": 2,
            "nodes": [],
        }
        text = json.dumps({"target": "kind", "cluster": cluster, "trials": []})
        record = RunRecord.read(tmp_path, text)
        assert place_of(record, None) == Place("kind", "kind-modelswarm", "room", {}, True)

    def test_goes_on_under_the_name_that_its_cluster_has_here(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scripts.cluster.attach.contexts", lambda: (["mine"], "mine"))
        cluster = {"context": "theirs", "namespace": "room", "images": {}, "detached": True, "workers": 2}
        text = json.dumps({"target": "cluster", "cluster": cluster, "trials": []})
        at_hand = SimpleNamespace(context="mine")
        record = RunRecord.read(tmp_path, text)
        assert place_of(record, at_hand).context == "mine"  # type: ignore[arg-type]

    def test_when_none_is_named_is_sought_where_the_newest_that_is_left_open_was_begun(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scripts.places.contexts", lambda: ([kind.CONTEXT, "prod", "lab"], "lab"))
        monkeypatch.setattr(
            "scripts.places.Kube", lambda *place: SimpleNamespace(context=place[0], namespace=place[1])
        )

        def sought(context: str | None = None, namespace: str = "modelswarm") -> tuple[str, str]:
            kube = cluster_at_hand(context, namespace, left_open(project))
            assert kube is not None
            return kube.context, kube.namespace

        def begun(name: str, context: str, ended: str | None, **trial: object) -> None:
            trials = [vars(TrialRecord("fastapi", "steady", 1, 1, "p", 0)) | trial] if trial else []
            where = {"context": context, "namespace": "room"}
            write_run(project, name, ended=ended, cluster=where, trials=trials)

        assert sought() == (kind.CONTEXT, "modelswarm")
        begun("1-unfetched", "lab", "now", unfetched=True)
        assert sought() == ("lab", "room")
        begun("2-going-on", "prod", None)
        begun("3-ended", "lab", "now")
        begun("4-of-a-cluster-that-is-gone", "gone", None)
        write_run(project, "5-of-this-machine", ended=None)
        write_run(project, "6-of-another-version", ended=None, trials=[{"new": 1}])
        assert sought() == ("prod", "room")
        assert sought(context="lab") == ("lab", "modelswarm")
        assert sought(namespace="other") == (kind.CONTEXT, "other")


def test_a_run_that_is_followed_no_longer_is_not_known_to_have_held(
    project: Project, console: Console, said: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise Interrupted

    plan = read_plan("quick").model_dump(mode="json")
    facts = {"plan": plan, "cluster": {"workers": 2}, "backends": {}, "ended": None, "status": "running"}
    write_run(project, "one", **facts)
    monkeypatch.setattr(attach, "place_of", lambda record, kube: None)
    monkeypatch.setattr(attach, "ClusterTarget", lambda *_: SimpleNamespace(kube=None))
    monkeypatch.setattr(attach, "follow", interrupted)
    assert attach.attach(project, "one", None, console) == UNMEASURED
    assert "The run goes on; `modelswarm attach one` comes back to it." in said.getvalue()


class Room:
    """A namespace that remembers what was deleted."""

    namespace = "room"

    def __init__(self, labels: dict[str, str] | None) -> None:
        self.found = None if labels is None else {"metadata": {"labels": labels}}
        self.deleted: list[tuple[str, ...]] = []

    def read(self, kind: str, name: str) -> object:
        return self.found

    def lease(self, name: str) -> None:
        return None

    def delete(self, kind: str, *names: str, labels: str = "") -> None:
        self.deleted.append((kind, *names, labels))


class TestClearingANamespace:
    def clear(self, room: Room, console: Console, monkeypatch: pytest.MonkeyPatch, ask: bool = False) -> None:
        monkeypatch.setattr("scripts.places.Kube", lambda context, namespace: room)
        wish = Wish("cluster", "theirs", "registry", "room")
        clear(Project(ROOT), wish, console, ask=ask)

    def test_that_runs_made_removes_it(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        room = Room({"app.kubernetes.io/part-of": "modelswarm"})
        self.clear(room, console, monkeypatch)
        assert room.deleted == [("namespace", "room", "")]

    def test_of_other_people_leaves_it_and_what_is_theirs(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = Room({"team": "a"})
        self.clear(room, console, monkeypatch)
        kinds = {kind for kind, *_ in room.deleted}
        assert "namespace" not in kinds
        assert all(labels or names for _, *names, labels in room.deleted)
        assert any(labels == "app.kubernetes.io/part-of=modelswarm" for *_, labels in room.deleted)

    def test_whose_account_may_not_see_it_leaves_it_and_removes_what_is_inside(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = Room({})

        def refuse(kind: str, name: str) -> object:
            raise CannotRun('namespaces "room" is forbidden')

        monkeypatch.setattr(room, "read", refuse)
        self.clear(room, console, monkeypatch)
        assert "lease" in {kind for kind, *_ in room.deleted}
        assert "namespace" not in {kind for kind, *_ in room.deleted}

    def test_asks_before(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        room = Room({"app.kubernetes.io/part-of": "modelswarm"})
        with pytest.raises(UserError, match="say --yes to remove the namespace room from theirs"):
            self.clear(room, console, monkeypatch, ask=True)
        assert room.deleted == []

    def test_that_is_not_there_says_so(
        self, console: Console, said: StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.clear(Room(None), console, monkeypatch)
        assert said.getvalue() == "There is no namespace room in theirs.\n"


class TestClearingKind:
    @pytest.fixture
    def removed(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was removed, of a cluster that is there and in which nobody's run goes on."""
        removed: list[str] = []
        usable(monkeypatch, None)
        monkeypatch.setattr(kind, "exists", lambda: True)
        monkeypatch.setattr(kind, "remove", lambda project, console: removed.append("kind"))
        self.hold(monkeypatch, [])
        return removed

    def hold(self, monkeypatch: pytest.MonkeyPatch, leases: list[Object]) -> None:
        """Let these Leases be in the cluster."""
        found = {lease["metadata"]["namespace"]: lease for lease in leases}

        def cluster(context: str, namespace: str, **_: float) -> SimpleNamespace:
            assert context == kind.CONTEXT
            mine = found.get(namespace)
            return SimpleNamespace(namespace=namespace, leases=lambda name: leases, lease=lambda name: mine)

        monkeypatch.setattr("scripts.places.Kube", cluster)

    def test_asks_before(self, project: Project, console: Console, removed: list[str]) -> None:
        with pytest.raises(UserError, match="say --yes to remove the kind cluster modelswarm and the images"):
            clear(project, Wish("kind"), console, ask=True)
        assert removed == []
        clear(project, Wish("kind"), console, ask=False)
        assert removed == ["kind"]

    def test_is_refused_while_a_run_goes_on_in_any_namespace(
        self, project: Project, console: Console, removed: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        driver = {"modelswarm/who": me(), "modelswarm/pid": str(os.getpid())}
        spec = {"holderIdentity": "20261121T143100Z-quick", "renewTime": now().isoformat()}
        self.hold(monkeypatch, [{"metadata": {"namespace": "other", "annotations": driver}, "spec": spec}])
        with pytest.raises(Taken, match="The namespace other is used by the run 20261121T143100Z-quick"):
            clear(project, Wish("kind"), console, ask=False)
        assert removed == []

    def test_whose_api_server_is_down_removes_it(
        self, project: Project, console: Console, removed: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(name: str) -> None:
            raise Away("the API server has been away")

        monkeypatch.setattr("scripts.places.Kube", lambda *_, **__: SimpleNamespace(leases=away))
        clear(project, Wish("kind"), console, ask=False)
        assert removed == ["kind"]


class TestTheWebUisPassword:
    def test_is_made_once_and_is_only_this_users(self, project: Project) -> None:
        password = web_password(project)
        file = project.root / "artifacts" / "web-login.json"
        assert len(password) >= 16
        assert web_password(project) == password
        assert file.stat().st_mode & 0o777 == 0o600
