"""A model server as a local process: started on its own cores, and gone afterwards with all its children."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.cores import pinned
from scripts.errors import CannotRun, UserError, nearest
from scripts.family import MARK, Family, living
from scripts.project import Project, Service
from scripts.target import ending

HOST = "127.0.0.1"
_STRIPPED = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


@dataclass(frozen=True)
class ServerSettings:
    """What every server of a run gets alike."""

    project: Project
    threads: int
    cores: Sequence[int]
    workers: int = 1


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different TCP ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def refuse_busy_ports(ports: Mapping[int, str], otherwise: str) -> None:
    """Look at the ports (and who wants them) before anything starts.

    `otherwise` says what else one can do than to end what has them.

    Raises:
        CannotRun: some are taken; the sentence names them.

    """
    busy = [f"{port} (needed by {who})" for port, who in ports.items() if not port_is_free(port)]
    if busy:
        raise CannotRun(
            f"In use already: port {', port '.join(busy)}. `ss -ltnp` shows by whom; end that process, or "
            f"{otherwise}."
        )


def child_environment(mark: str, changes: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a run's process: ours, less what would change its Python or Locust.

    All talk over loopback, servers among their own processes too, and gRPC would take a proxy there.
    """
    kept = {
        k: v
        for k, v in environ.items()
        if k not in _STRIPPED and not k.startswith(("LOCUST_", "MODELSWARM_"))
    }
    lower, upper = kept.get("no_proxy"), kept.get("NO_PROXY")  # one may be read, or the other first
    spared = {"no_proxy": _with_loopback(lower or upper), "NO_PROXY": _with_loopback(upper or lower)}
    return kept | spared | {"PYTHONUNBUFFERED": "1", MARK: mark} | dict(changes)


def _with_loopback(names: str | None) -> str:
    return "*" if names == "*" else ",".join([*filter(None, [names]), HOST, "localhost"])


def fill(text: str, values: Mapping[str, str], where: str) -> str:
    """Put values in place of `{name}`.

    Raises:
        UserError: there is no such placeholder.

    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise UserError(f"{where}: there is no placeholder {match[0]}; {nearest(match[1], values)}")
        return values[match[1]]

    return re.sub(r"\{([a-z][a-z0-9_]*)\}", value, text)


class LocalServer:
    """One framework's server, from its command line to its last process."""

    def __init__(
        self, service: Service, settings: ServerSettings, scratch: Path, log: Path, mark: str
    ) -> None:
        """Prepare the server; `scratch` becomes its working and temporary folder."""
        self.service, self._settings, self._scratch, self._log = service, settings, scratch, log
        self.family = Family(mark, scratch)
        names = service.facts.ports()
        self.port, *others = free_ports(1 + len(names))
        self._ports = dict(zip(names, others, strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def host(self) -> str:
        """The address that speaks the chosen protocol, as Locust's `--host` takes it."""
        return self.speaking(self.service.protocol)

    def speaking(self, protocol: str) -> str:
        """Return the address that speaks one of its protocols."""
        scheme = "grpc" if protocol.startswith("grpc") else "http"
        return f"{scheme}://{HOST}:{self._ports.get(protocol, self.port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 once it is ready."""
        facts = self.service.facts
        return f"http://{HOST}:{self._ports.get(facts.ready_port or '', self.port)}{facts.ready_path}"

    @property
    def caller_variables(self) -> dict[str, str]:
        """Where callers find the key of a server that asks for one."""
        name = self.service.facts.local.key_file
        return {"MODELSWARM_KEY_FILE": str(self._scratch / name)} if name else {}

    def start(self) -> None:
        """Start it on its cores.

        Raises:
            CannotRun: its command cannot be executed.

        """
        values = self._placeholders()
        local, where = self.service.facts.local, f"services/{self.service.name}/service.toml [local]"
        command = [fill(part, values, where) for part in local.command]
        changes = self._variables(values) | {key: fill(str(v), values, where) for key, v in local.env.items()}
        self._scratch.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log, pinned(self._settings.cores):
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._scratch,
                    env=child_environment(self.family.mark, changes, os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise CannotRun(f"its command cannot be started: {error}") from error

    def ended(self) -> str | None:
        """Return how it ended (`exited with signal 9`), or None while it runs."""
        status = self._process.poll() if self._process else None
        if status is None:
            return None
        return f"exited with signal {-status}" if status < 0 else f"exited with status {status}"

    def stop(self) -> list[str]:
        """End it: SIGTERM to its group, SIGKILL to what is left; return what had to be killed."""
        if self._process is None:
            return []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.service.facts.local.stop_timeout_s
        while time.monotonic() < deadline and (self._process.poll() is None or living(self.family.members())):
            time.sleep(0.1)
        killed = self.family.kill()
        self._process.wait()
        return killed

    def last_words(self) -> str:
        """Return how its log ends, as the end of an error sentence."""
        return ending(self._log.read_text(errors="replace") if self._log.exists() else "")

    def _placeholders(self) -> dict[str, str]:
        environment = self.service.environment
        return {
            "venv": str(environment.path if environment else self.service.python.parent.parent),
            "python": str(self.service.python),
            "host": HOST,
            "port": str(self.port),
            "root": str(self._settings.project.root),
            "model_dir": str(self._settings.project.model_dir),
            "threads": str(self._settings.threads),
            "workers": str(self._settings.workers),
            "dir": str(self.service.folder),
            **{f"port_{name}": str(port) for name, port in self._ports.items()},
            **self.service.values,
        }

    def _variables(self, values: Mapping[str, str]) -> dict[str, str]:
        return {
            "PYTHONPATH": values["root"],
            "MODELSWARM_MODEL_DIR": values["model_dir"],
            "MODELSWARM_THREADS": values["threads"],
            "MODELSWARM_WORKERS": values["workers"],
            "OMP_NUM_THREADS": values["threads"],
            **self.service.variables,
            "TMPDIR": str(self._scratch),
            "PATH": os.pathsep.join([f"{values['venv']}/bin", os.environ.get("PATH", os.defpath)]),
        }
