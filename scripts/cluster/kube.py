"""One namespace of a Kubernetes cluster: read through the API, changed through kubectl.

Objects are the API's own JSON, since the client's classes hold nothing more and cost a second of CPU a minute
on the machine that is measured. Everything waits for an API server that is away for a while.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import yaml

from scripts.errors import CannotRun, UserError, nearest
from scripts.family import MARK

T = TypeVar("T")
Object = dict[str, Any]
"""A Kubernetes object as the API writes it in JSON."""

PATIENCE_S = 90.0
"""So long may the API server be away."""
_PAUSE_S = 1.0
_TIMEOUT_S = (3.0, 15.0)
_BY_NODE = "error dialing backend"
"""What the API server says when it is there, but the kubelet of a node is not."""
_AWAY = (
    "connection refused",
    "connection reset",
    "unable to connect to the server",
    "the connection to the server",
    "i/o timeout",
    "tls handshake timeout",
    "no route to host",
    "unexpected eof",
    "etcdserver: ",
    "the server is currently unable to handle the request",
    "http2: client connection lost",
)

_HERE = ("127.0.0.1", "::1", "localhost")
_ADVICE = {
    401: ". Log in to the cluster again, or choose another account with --context.",
    403: ". Have your account granted this right, or choose another one with --context.",
}


class Away(CannotRun):
    """The API server does not answer."""


class Refused(CannotRun):
    """The API server answers, but not with what was asked for."""

    def __init__(self, status: int, sentence: str) -> None:
        """Keep the HTTP status, for those who know what it means there."""
        super().__init__(sentence)
        self.status = status


def contexts() -> tuple[list[str], str | None]:
    """Return the contexts of the kubeconfig, and the current one.

    Raises:
        UserError: there is no kubeconfig.

    """
    from kubernetes import config

    try:
        known, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise UserError(f"There is no usable kubeconfig: {error}") from error
    return [each["name"] for each in known], current and current["name"]


class Kube:
    """The cluster of a kubeconfig's context, seen as one of its namespaces."""

    def __init__(
        self,
        context: str,
        namespace: str,
        mark: str = "",
        patience_s: float = PATIENCE_S,
        pause_s: float = _PAUSE_S,
    ) -> None:
        """Connect when first asked; `mark` is what the run's guard knows kubectl's processes by.

        Raises:
            UserError: there is no such context, or no kubectl.

        """
        known, _ = contexts()
        if context not in known:
            raise UserError(f"The kubeconfig has no context {context!r}; {nearest(context, known)}")
        if shutil.which("kubectl") is None:
            raise UserError("kubectl is not on PATH: install it, or write --target local.")
        self.context, self.namespace, self._mark = context, namespace, mark
        self._patience_s, self._pause_s = patience_s, pause_s
        self._connected = threading.local()
        self._ahead_s = 0.0
        self.refusal: str | None = None
        """Why nothing may be asked any more."""

    def now_s(self) -> float:
        """Return the time by the cluster's clock, once it has answered, in seconds since the epoch."""
        return time.time() + self._ahead_s

    def _hear_time(self, date: str | None) -> None:
        """Learn how far the API server's clock is ahead of ours; its header tells whole seconds."""
        with suppress(ValueError, TypeError):
            self._ahead_s = parsedate_to_datetime(date or "").timestamp() - time.time()

    def let_go(self, reason: str) -> None:
        """Touch the namespace no more: whatever is asked from now on ends in a CannotRun with this reason."""
        self.refusal = reason

    def _api(self, group: str) -> Any:
        """Return this thread's client of an API group; threads time out at their own pace."""
        from kubernetes import client

        if not hasattr(self._connected, "client"):
            from kubernetes import config

            settings = client.Configuration()
            config.load_kube_config(  # type: ignore[no-untyped-call]
                context=self.context, client_configuration=settings
            )
            if urlsplit(settings.host).hostname in _HERE:
                settings.proxy = None  # as kubectl does, whatever HTTPS_PROXY says
            settings.retries = False  # what is away is waited for here
            settings.safe_chars_for_path_param = "/"  # a path behind the node proxy
            self._connected.client = client.ApiClient(settings)
        return getattr(client, group)(self._connected.client)

    def pods(self, labels: str) -> list[Object]:
        """Return the namespace's pods with these labels."""
        return self._items("list_namespaced_pod", self.namespace, label_selector=labels)

    def events(self) -> list[Object]:
        """Return what the cluster says happened in the namespace; it forgets after an hour."""
        return self._items("list_namespaced_event", self.namespace)

    def nodes(self) -> list[Object]:
        """Return the cluster's nodes; none where the account may not see them."""
        try:
            return self._items("list_node")
        except Refused as error:
            if error.status != 403:
                raise
            return []

    def node_metrics(self, node: str) -> str:
        """Return the kubelet's counters of its containers, in Prometheus' text format.

        Raises:
            Refused: the account may not ask, or the node does not answer.

        """
        path = "connect_get_node_proxy_with_path"
        return self._read(path, node, "metrics/resource", from_node=True).decode()

    def pod_metrics(self) -> list[Object]:
        """Return metrics-server's averages of the namespace's pods; none where there is no metrics-server."""
        raw = f"/apis/metrics.k8s.io/v1beta1/namespaces/{self.namespace}/pods"
        try:
            text = self.kubectl("get", "--raw", raw, patience_s=0.0)  # a trial does not depend on it
        except CannotRun:
            return []
        found: list[Object] = json.loads(text)["items"]
        return found

    def log(self, pod: str, container: str, previous: bool = False) -> bytes:
        """Return a container's log; empty where there is none (yet, or any more), or its node is silent."""
        options: dict[str, Any] = {"container": container, "previous": previous}
        try:
            return self._read("read_namespaced_pod_log", pod, self.namespace, from_node=True, **options)
        except Refused:
            return b""

    def _items(self, call: str, *arguments: str, **options: Any) -> list[Object]:
        found: list[Object] = json.loads(self._read(call, *arguments, **options))["items"]
        return found

    def lease(self, name: str) -> Object | None:
        """Return a Lease, None where there is none."""
        try:
            found: Object = json.loads(
                self._read("read_namespaced_lease", name, self.namespace, group="CoordinationV1Api")
            )
        except Refused as error:
            if error.status != 404:
                raise
            return None
        return found

    def leases(self, name: str) -> list[Object]:
        """Return the Leases of that name in all namespaces."""
        call, selector = "list_lease_for_all_namespaces", f"metadata.name={name}"
        return self._items(call, group="CoordinationV1Api", field_selector=selector)

    def put_lease(self, name: str, body: Object, new: bool) -> bool:
        """Make or replace a Lease; return whether nobody else did meanwhile."""
        call = ("create_namespaced_lease",) if new else ("replace_namespaced_lease", name)
        try:
            self._read(*call, self.namespace, body, group="CoordinationV1Api")
        except Refused as error:
            if error.status != 409:
                raise
            return False
        return True

    def _read(
        self,
        call: str,
        *arguments: Any,
        group: str = "CoreV1Api",
        from_node: bool = False,
        **options: Any,
    ) -> bytes:
        """Call the API, again and again while it is away.

        What comes `from_node`, the API server asks a kubelet for: when that fails it is there itself.

        Raises:
            Away: it was for too long.
            Refused: it answered with an error.

        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        def attempt() -> bytes:
            try:
                answer = getattr(self._api(group), call)(
                    *arguments, **options, _preload_content=False, _request_timeout=_TIMEOUT_S
                )
                self._hear_time(answer.headers.get("Date"))
                data: bytes = answer.data
                return data
            except ApiException as error:
                if error.status in (429, 500, 502, 503, 504) and not from_node:
                    raise Away(f"answers {error.status}") from error
                raise self._refusal(call, error) from error
            except (HTTPError, OSError) as error:
                if from_node and isinstance(error, ReadTimeoutError):
                    raise Refused(504, f"the node of {arguments[0]} is silent") from error
                raise Away(str(error)) from error

        return self._patiently(attempt)

    def _refusal(self, call: str, error: Any) -> Refused:
        """Say what was asked, what the API server says to it, and what a person can do."""
        try:
            said = str(json.loads(error.body)["message"])
        except (ValueError, KeyError, TypeError):
            said = str(error.reason)
        what = call.replace("namespaced_", "").replace("_", " ")
        advice = _ADVICE.get(error.status, "")
        where = f"The API server of {self.context} refused to {what} for the namespace {self.namespace}"
        return Refused(error.status, f"{where}: {error.status} {said}{advice}")

    def _patiently(self, attempt: Callable[[], T], patience_s: float | None = None) -> T:
        patience_s = self._patience_s if patience_s is None else patience_s
        deadline = time.monotonic() + patience_s
        while True:
            if self.refusal is not None:
                raise CannotRun(self.refusal)
            try:
                return attempt()
            except Away as error:
                if time.monotonic() > deadline:
                    away = f"the API server of {self.context} has been away for {patience_s:.0f} s"
                    raise Away(f"{away}: {error}") from error
                time.sleep(self._pause_s)

    def kubectl(
        self,
        *arguments: str,
        text: str | None = None,
        data: bytes | None = None,
        patience_s: float | None = None,
    ) -> bytes:
        """Run kubectl in the namespace to its end and return what it printed.

        Raises:
            Away: the API server was away for too long.
            CannotRun: kubectl said that it failed; the sentence is its own.

        """
        command = self.command(*arguments)
        given = text.encode() if text is not None else data

        def attempt() -> bytes:
            # In a session of its own: Ctrl-C is for the run, which ends in order.
            done = subprocess.run(
                command, input=given, capture_output=True, check=False, start_new_session=True
            )
            if done.returncode == 0:
                return done.stdout
            said = done.stderr.decode(errors="replace").strip()
            if any(sign in said.lower() for sign in _AWAY) and _BY_NODE not in said:
                raise Away(said[-300:])
            raise CannotRun(f"kubectl {arguments[0]}: {said[-800:]}")

        return self._patiently(attempt, patience_s)

    def spawn(self, *arguments: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start kubectl in the namespace and let it run; the run's guard ends it if this command cannot."""
        return subprocess.Popen(
            self.command(*arguments),
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str]:
        """Return kubectl's command line for the namespace."""
        return ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments]

    def apply(self, objects: Sequence[Object]) -> None:
        """Create or change objects."""
        text = yaml.safe_dump_all(objects)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)

    def delete(self, kind: str, *names: str, labels: str = "", grace_s: int | None = None) -> None:
        """Delete objects, by name or by label, and return when they are gone."""
        options = ["--ignore-not-found", "--wait=true", "--timeout=120s"]
        options += [f"--grace-period={grace_s}"] if grace_s is not None else []
        options += [f"--selector={labels}"] if labels else []
        self.kubectl("delete", kind, *names, *options)

    def read(self, kind: str, name: str) -> Object | None:
        """Return one object, None where there is none."""
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    @contextmanager
    def kept(self, *arguments: str, file: Path | None = None) -> Iterator[None]:
        """Keep kubectl running while the block lasts, into a file that is begun anew each time it ends.

        It ends when the API server goes away, and a port-forward also when its pod does.
        """
        done = threading.Event()
        running: list[subprocess.Popen[bytes]] = []

        def keep() -> None:
            while not done.is_set():
                with open(file or os.devnull, "wb") as output:
                    running[:] = [self.spawn(*arguments, output=output)]
                running[0].wait()
                done.wait(0.5)

        thread = threading.Thread(target=keep, name=f"kubectl {arguments[0]}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            while thread.is_alive():
                for process in running:
                    process.kill()
                thread.join(0.1)


def rendered(folder: Path) -> list[Object]:
    """Return the objects that `kubectl kustomize` makes of a folder.

    Raises:
        CannotRun: it cannot.

    """
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotRun(f"kubectl kustomize {folder}: {done.stderr.strip()[-500:]}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]
