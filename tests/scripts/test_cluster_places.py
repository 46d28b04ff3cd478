"""Where a run is made, and which run is gone on with."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from scripts import attach, kind
from scripts.attach import find, place_of
from scripts.cluster import Place
from scripts.errors import UNMEASURED, UserError
from scripts.kube import Away, Object
from scripts.lease import Taken, me, now
from scripts.places import Wish, clear, lacking, resolve
from scripts.plan import read_plan
from scripts.project import Project
from scripts.run import RunRecord
from scripts.stop import Interrupted
from scripts.web_password import web_password
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


class TestAFrameworkInACluster:
    def test_needs_an_image_and_manifests_and_no_environment(self, tmp_path: Path) -> None:
        service = Project(ROOT).select(["fastapi"])[0]
        assert lacking(service) is None
        (folder := tmp_path / "fastapi").mkdir()
        from dataclasses import replace

        assert lacking(replace(service, folder=folder)) == "services/fastapi/Dockerfile is not there"


def write_run(project: Project, name: str, **head: object) -> Path:
    folder = project.results / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"trials": [], **head}))
    return folder


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
        monkeypatch.setattr("scripts.attach.kept_record", lambda kube: ("three", '{"trials": []}'))
        folder, text = find(project, None, object())  # type: ignore[arg-type]
        assert folder == project.results / "three"
        assert (folder / "run.json").read_text() == text == '{"trials": []}'

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
        monkeypatch.setattr("scripts.attach.contexts", lambda: (["mine"], "mine"))
        cluster = {"context": "theirs", "namespace": "room", "images": {}, "detached": True, "workers": 2}
        text = json.dumps({"target": "cluster", "cluster": cluster, "trials": []})
        at_hand = SimpleNamespace(context="mine")
        record = RunRecord.read(tmp_path, text)
        assert place_of(record, at_hand).context == "mine"  # type: ignore[arg-type]


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
