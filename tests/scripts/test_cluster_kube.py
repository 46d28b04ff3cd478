"""Asking an API server that may be away, and holding a namespace by a Lease."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.cli import main
from scripts.cluster.kube import Away, Kube, Refused
from scripts.cluster.lease import NAME, Lease, Taken, me, refuse_driven
from scripts.errors import CannotRun, UserError
from tests.projects import ROOT
from tests.waiting import until


class Api:
    """A few paths of an API server; `down` refuses, as a load balancer without one behind it does."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = 0
        self.forbidden: tuple[int, bytes] | None = None
        self.silent_node = 0
        self.leases: dict[str, dict[str, Any]] = {}
        self.version = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = json.loads(self.rfile.read(length)) if length else None
                api.asked.append(f"{self.command} {self.path}")
                if api.down:
                    api.down -= 1
                    self.answer(503, b"{}")
                elif api.forbidden:
                    self.answer(*api.forbidden)
                else:
                    self.answer(*api.serve(self.command, self.path.partition("?")[0], sent))

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def serve(self, method: str, path: str, sent: Any) -> tuple[int, bytes]:
        if self.silent_node and ("/proxy/" in path or path.endswith("/log")):
            return self.silent_node, b'{"message": "dial tcp: connection refused"}'
        if path.endswith("/proxy/metrics/resource"):
            return 200, b"counters"
        if path == "/api/v1/namespaces/modelswarm/pods":
            return 200, json.dumps({"items": [{"metadata": {"name": "a"}}]}).encode()
        if path == "/api/v1/nodes":
            return 403, b"{}"
        if "/leases" in path:
            return self.lease(method, sent)
        return 404, b"{}"

    def lease(self, method: str, sent: Any) -> tuple[int, bytes]:
        found = self.leases.get(NAME)
        if method == "GET":
            return (200, json.dumps(found).encode()) if found else (404, b"{}")
        stale = (
            found is not None
            and sent["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]
        )
        if (method == "POST" and found is not None) or stale:
            return 409, b"{}"
        self.version += 1
        sent["metadata"]["resourceVersion"] = str(self.version)
        self.leases[NAME] = sent
        return 200, json.dumps(sent).encode()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


@pytest.fixture
def kube(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kube:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server.server_port}"}},
        ],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    program.chmod(0o755)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return Kube("here", "modelswarm", patience_s=0.3, pause_s=0.02)


class TestAsking:
    def test_gives_the_apis_own_json(self, kube: Kube) -> None:
        assert kube.pods("app.kubernetes.io/component=server") == [{"metadata": {"name": "a"}}]

    def test_a_kubelet_goes_through_the_node_proxy(self, kube: Kube, api: Api) -> None:
        assert kube.node_metrics("worker-1") == "counters"
        assert api.asked == ["GET /api/v1/nodes/worker-1/proxy/metrics/resource"]

    def test_waits_for_an_api_server_that_is_away_for_a_while(self, kube: Kube, api: Api) -> None:
        api.down = 3
        assert len(kube.pods("")) == 1
        assert len(api.asked) == 4

    def test_gives_up_when_it_stays_away(self, kube: Kube, api: Api) -> None:
        api.down = 1000
        with pytest.raises(Away, match=r"the API server of here has been away for 0 s: answers 503"):
            kube.pods("")

    def test_nothing_listens_is_away_too(self, kube: Kube, api: Api) -> None:
        api.server.shutdown()
        api.server.server_close()
        with pytest.raises(Away, match="has been away"):
            kube.pods("")

    def test_this_machine_goes_through_no_proxy(self, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert len(kube.pods("")) == 1

    @pytest.mark.parametrize("ahead_s", [-3600, 3600])
    def test_tells_the_time_by_the_clusters_clock(
        self, kube: Kube, monkeypatch: pytest.MonkeyPatch, ahead_s: int
    ) -> None:
        theirs = time.time() + ahead_s
        monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: formatdate(theirs))
        kube.pods("")
        assert kube.now_s() == pytest.approx(theirs, abs=60)

    def test_goes_by_its_own_clock_where_the_cluster_tells_no_time(
        self, kube: Kube, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: "teatime")
        kube.pods("")
        assert kube.now_s() == pytest.approx(time.time(), abs=60)

    def test_an_account_that_may_not_see_nodes_sees_none(self, kube: Kube) -> None:
        assert kube.nodes() == []

    @pytest.mark.parametrize(
        ("what", "ask"),
        [
            ("list pod", lambda kube: kube.pods("")),
            ("list event", Kube.events),
            ("read lease", lambda kube: kube.lease(NAME)),
            ("create lease", lambda kube: kube.put_lease(NAME, {}, True)),
            ("replace lease", lambda kube: kube.put_lease(NAME, {}, False)),
        ],
    )
    def test_an_account_without_rights_is_told_what_it_lacks(
        self, kube: Kube, api: Api, what: str, ask: Callable[[Kube], object]
    ) -> None:
        api.forbidden = 403, b'{"message": "User eve cannot do this"}'
        with pytest.raises(Refused) as refused:
            ask(kube)
        assert str(refused.value) == (
            f"The API server of here refused to {what} for the namespace modelswarm: 403 User eve cannot do "
            "this. Have your account granted this right, or choose another one with --context."
        )
        assert refused.value.exit_code == 3

    def test_an_account_that_is_not_known_is_told_to_log_in(self, kube: Kube, api: Api) -> None:
        api.forbidden = 401, b"no JSON"
        with pytest.raises(Refused, match=r"401 Unauthorized\. Log in to the cluster again, or choose"):
            kube.pods("")

    def test_a_run_of_an_account_without_rights_ends_with_3_and_a_sentence(
        self,
        kube: Kube,
        api: Api,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        api.forbidden = 403, b"{}"
        where = ["--target", "cluster", "--context", "here", "--registry", "registry.example.com"]
        what = ["run", "--backends", "fastapi", "--out", str(tmp_path), "--yes"]
        monkeypatch.setattr("sys.argv", ["modelswarm", "--root", str(ROOT), *what, *where])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 3
        assert "modelswarm: The API server of here refused to read lease" in capsys.readouterr().err

    @pytest.mark.parametrize("status", [500, 503])
    def test_a_node_that_is_silent_is_not_taken_for_an_api_server_that_is_away(
        self, kube: Kube, api: Api, status: int
    ) -> None:
        api.silent_node = status
        with pytest.raises(Refused, match="connection refused"):
            kube.node_metrics("worker-1")
        assert kube.log("a", "server") == b""
        assert len(api.asked) == 2

    def test_nor_is_one_that_kubectl_cannot_reach(self, kube: Kube, tmp_path: Path) -> None:
        said = "error: error dialing backend: dial tcp 10.0.0.3:10250: connect: connection refused"
        (tmp_path / "bin" / "kubectl").write_text(f"#!/bin/sh\necho {said!r} >&2\nexit 1\n")
        with pytest.raises(CannotRun, match=r"^kubectl exec: error: error dialing backend") as failed:
            kube.kubectl("exec", "a", "--", "true")
        assert not isinstance(failed.value, Away)

    def test_averages_that_cannot_be_had_now_are_not_waited_for(self, kube: Kube, tmp_path: Path) -> None:
        said = "Error from server (ServiceUnavailable): the server is currently unable to handle the request"
        program = f"#!/bin/sh\necho asked >> {tmp_path}/called\necho {said!r} >&2\nexit 1\n"
        (tmp_path / "bin" / "kubectl").write_text(program)
        assert kube.pod_metrics() == []
        assert (tmp_path / "called").read_text() == "asked\n"

    def test_a_namespace_that_was_let_go_ends_with_the_reason(self, kube: Kube, api: Api) -> None:
        kube.let_go("somebody else has it")
        for ask in (lambda: kube.pods(""), lambda: kube.delete("job", "a")):
            with pytest.raises(CannotRun, match=r"^somebody else has it$"):
                ask()
        assert api.asked == []

    def test_a_log_that_may_not_be_read_is_empty(self, kube: Kube, api: Api) -> None:
        api.forbidden = 403, b"{}"
        assert kube.log("a", "server") == b""

    def test_a_context_that_is_not_there_names_the_nearest(self, kube: Kube) -> None:
        with pytest.raises(UserError, match="The kubeconfig has no context 'heer'; did you mean 'here'"):
            Kube("heer", "modelswarm")


Clock = Callable[[], datetime]
NOBODY = "4194999"  # above any pid


def nothing(_: float) -> None:
    """Let no time pass."""


def lease(
    kube: Kube,
    run: str,
    after_s: float = 0.0,
    detached: bool = False,
    pause: Callable[[float], object] = nothing,
) -> Lease:
    at = datetime(2026, 11, 21, 18, 0, tzinfo=UTC) + timedelta(seconds=after_s)
    return Lease(kube, Path(run), detached, clock=lambda: at, pause=pause)


def from_elsewhere(api: Api) -> None:
    api.leases[NAME]["metadata"]["annotations"] |= {
        "modelswarm/who": "eve@elsewhere",
        "modelswarm/whose": "another boot",
        "modelswarm/pid": "1",
    }


def renewing(api: Api) -> Callable[[float], None]:
    """Let the Lease be renewed while time passes."""

    def pause(_: float) -> None:
        later = datetime(2026, 11, 21, 18, 0, 10, tzinfo=UTC).isoformat()
        api.leases[NAME]["spec"]["renewTime"] = later

    return pause


@contextmanager
def careless_parent() -> Iterator[int]:
    """The pid of a process that has ended and that its parent does not wait for."""
    code = (
        "import os, subprocess, sys; it = subprocess.Popen(['true']);"
        "os.waitid(os.P_PID, it.pid, os.WEXITED | os.WNOWAIT); print(it.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        yield int(parent.stdout.readline())
        parent.communicate()


class TestANamespace:
    def test_is_free_for_the_first(self, kube: Kube, api: Api) -> None:
        lease(kube, "run-1").take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-1"
        assert api.leases[NAME]["metadata"]["annotations"]["modelswarm/who"] == me()

    def test_that_another_run_uses_says_by_whom(self, kube: Kube, api: Api) -> None:
        lease(kube, "run-1").take()
        from_elsewhere(api)
        with pytest.raises(Taken) as refused:
            lease(kube, "run-2", after_s=10).take()
        assert str(refused.value) == (
            "The namespace modelswarm is used by the run run-1 of eve@elsewhere, "
            "last heard of at 18:00:00 UTC: wait for it, or name another with --namespace."
        )

    def test_is_taken_over_from_a_run_that_fell_silent(self, kube: Kube, api: Api) -> None:
        lease(kube, "run-1").take()
        from_elsewhere(api)
        lease(kube, "run-2", after_s=31).take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-2"

    @pytest.mark.parametrize("skew_s", [-3600, 3600])
    def test_is_not_taken_from_a_run_whose_machine_has_another_time(
        self, kube: Kube, api: Api, skew_s: int
    ) -> None:
        """Its renewals are seen, however old or new they say they are."""
        lease(kube, "run-1").take()
        from_elsewhere(api)
        with pytest.raises(Taken, match="used by the run run-1"):
            lease(kube, "run-2", after_s=skew_s, pause=renewing(api)).take()

    @pytest.mark.parametrize("after_s", [40, -1])
    def test_is_not_taken_from_a_command_of_this_machine_that_could_not_renew_for_a_while(
        self, kube: Kube, api: Api, after_s: int
    ) -> None:
        """The API server was away for half a minute, or the clock was set back."""
        lease(kube, "run-1").take()
        with pytest.raises(Taken, match="used by the run run-1"):
            lease(kube, "run-2", after_s=after_s, pause=renewing(api)).take()

    def test_is_not_taken_from_a_process_of_another_container_with_this_ones_name(
        self, kube: Kube, api: Api
    ) -> None:
        lease(kube, "run-1").take()
        from_elsewhere(api)
        api.leases[NAME]["metadata"]["annotations"] |= {"modelswarm/who": me(), "modelswarm/pid": NOBODY}
        with pytest.raises(Taken, match="used by the run run-1"):
            lease(kube, "run-2", after_s=2).take()

    def test_is_not_taken_from_another_containers_command_of_the_same_run_and_pid(
        self, kube: Kube, api: Api
    ) -> None:
        lease(kube, "run-1").take()
        from_elsewhere(api)
        api.leases[NAME]["metadata"]["annotations"]["modelswarm/pid"] = str(os.getpid())
        with pytest.raises(Taken, match="used by the run run-1"):
            lease(kube, "run-1", after_s=2).take()

    def test_of_a_command_from_before_a_restart_is_free_though_its_pid_is_used_again(
        self, kube: Kube, api: Api
    ) -> None:
        lease(kube, "run-1").take()
        from_elsewhere(api)
        api.leases[NAME]["metadata"]["annotations"]["modelswarm/pid"] = str(os.getpid())
        lease(kube, "run-2", after_s=31).take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-2"

    def test_is_taken_over_from_a_silent_run_whose_machine_is_ahead(
        self, kube: Kube, api: Api, capsys: pytest.CaptureFixture[str]
    ) -> None:
        watched: list[float] = []
        lease(kube, "run-1").take()
        from_elsewhere(api)
        lease(kube, "run-2", after_s=-3600, pause=watched.append).take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-2"
        assert sum(watched) > 10  # seconds between two renewals
        assert "whether anybody still drives the run run-1" in capsys.readouterr().err

    def test_is_kept_for_a_detached_run_that_fell_silent(self, kube: Kube, api: Api) -> None:
        lease(kube, "run-1", detached=True).take()
        from_elsewhere(api)
        with pytest.raises(Taken, match=r"nobody drives .* `modelswarm attach run-1` finishes it"):
            lease(kube, "run-2", after_s=31).take()
        lease(kube, "run-1", after_s=31, detached=True).take()
        assert api.leases[NAME]["metadata"]["annotations"]["modelswarm/who"] == me()

    def test_of_a_command_of_this_machine_that_is_gone_is_free_at_once(self, kube: Kube, api: Api) -> None:
        lease(kube, "run-1").take()
        api.leases[NAME]["metadata"]["annotations"]["modelswarm/pid"] = NOBODY
        lease(kube, "run-2", after_s=1).take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-2"

    def test_of_a_killed_command_that_nobody_waited_for_is_free_at_once(self, kube: Kube, api: Api) -> None:
        with careless_parent() as zombie:
            lease(kube, "run-1").take()
            api.leases[NAME]["metadata"]["annotations"]["modelswarm/pid"] = str(zombie)
            lease(kube, "run-2", after_s=1).take()
        assert api.leases[NAME]["spec"]["holderIdentity"] == "run-2"

    def test_that_somebody_takes_at_the_same_moment_is_theirs(
        self, kube: Kube, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = Kube.put_lease

        def too_late(self: Kube, name: str, body: dict[str, Any], new: bool) -> bool:
            monkeypatch.setattr(Kube, "put_lease", put)
            lease(self, "run-1").take()
            from_elsewhere(api)
            return put(self, name, body, new)

        monkeypatch.setattr(Kube, "put_lease", too_late)
        with pytest.raises(Taken, match="used by the run run-1"):
            lease(kube, "run-2").take()

    def test_is_given_back_at_the_end(self, kube: Kube, api: Api, tmp_path: Path) -> None:
        with lease(kube, "run-1").held():
            pass
        assert "delete lease modelswarm" in (tmp_path / "called").read_text()

    def test_that_somebody_went_on_with_meanwhile_is_theirs(
        self, kube: Kube, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scripts.cluster.lease.RENEW_EVERY_S", 0.02)
        with lease(kube, "run-1").held():
            from_elsewhere(api)
            until(lambda: kube.refusal is not None, "it was noticed")
            theirs = api.leases[NAME]
            assert kube.refusal == (
                "the namespace modelswarm was taken over meanwhile by eve@elsewhere for the run run-1"
            )
        assert not (tmp_path / "called").exists()  # nothing was deleted
        assert api.leases[NAME] is theirs

    def test_with_a_run_under_way_is_not_cleared(self, kube: Kube, api: Api) -> None:
        refuse_driven(kube)
        Lease(kube, Path("run-1"), False).take()
        with pytest.raises(Taken, match="used by the run run-1"):
            refuse_driven(kube)
        api.leases[NAME]["metadata"]["annotations"]["modelswarm/pid"] = NOBODY
        refuse_driven(kube)

    def test_that_may_not_be_renewed_is_asked_for_again(
        self, kube: Kube, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("scripts.cluster.lease.RENEW_EVERY_S", 0.02)
        with lease(kube, "run-1").held():
            api.forbidden = 403, b"{}"
            asked = len(api.asked)
            until(lambda: len(api.asked) >= asked + 3, "it was asked for again")
