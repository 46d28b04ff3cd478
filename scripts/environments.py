"""Virtual environments: where uv is, what it must know of pip's settings, and what is up to date.

Standard library only: `scripts.bootstrap` runs this before anything is installed.

An environment is up to date when its stamp, written last, names the digest of what it was made from and the
Python inside it. Without a stamp it was left half made (Ctrl-C, a full disk) and is made again.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.errors import CannotRun

STAMP = "modelswarm.json"
BASE_PYTHON: str = getattr(sys, "_base_executable", sys.executable)
"""This Python outside any virtual environment: one must not be made from another that may be removed."""
_PIP_LINE = re.compile(r"^(?P<section>[^.]+)\.(?P<key>[\w-]+)='?(?P<value>.*?)'?$")
# pip's name, uv's name, and what separates several values in uv's variable.
_UV_NAMES = [
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("no-index", "UV_NO_INDEX", " "),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("timeout", "UV_HTTP_TIMEOUT", " "),
    ("proxy", "ALL_PROXY", " "),
]
_OLD_UV_NAMES = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
_OWN_SOURCES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_NO_INDEX")


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's effective settings: its files as `pip config list` shows them, then `PIP_*` variables."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for line in _pip_config_list(environ).splitlines():
        match = _PIP_LINE.match(line.strip())
        if match and match["section"] in sections:
            sections[match["section"]][match["key"]] = _unquoted(line.partition("=")[2])
    variables = {
        name[4:].lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    }
    return sections["global"] | sections["install"] | variables


def _pip_config_list(environ: Mapping[str, str]) -> str:
    for command in ([sys.executable, "-m", "pip"], ["pip"], ["pip3"]):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [*command, "config", "list"], env=dict(environ), capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                return done.stdout
    return ""


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text.strip()))
    except (SyntaxError, ValueError):
        return text.strip()


def uv_environment(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with pip's settings as uv's variables; what the user set for uv itself stays.

    pip looks at every index and takes the best version, uv stops at the first index that has the package:
    hence the strategy. Where nobody configured any source of packages, torch comes from its CPU builds:
    MobileNet is measured on CPUs, and the default Linux wheel brings gigabytes of CUDA.
    """
    variables = dict(environ)
    for pip_name, uv_name, separator in _UV_NAMES:
        already = uv_name in environ or _OLD_UV_NAMES.get(uv_name, uv_name) in environ
        if pip_name in pip and not already:
            variables[uv_name] = separator.join(pip[pip_name].split())
    variables.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if not any(name in variables or _OLD_UV_NAMES.get(name) in variables for name in _OWN_SOURCES):
        variables.setdefault("UV_TORCH_BACKEND", "cpu")
    return variables


def find_uv(root: Path) -> str | None:
    """Return the path of the project's own uv, else of this Python's, else of the one on PATH, else None."""
    own = [root / ".venv" / "bin" / "uv", Path(sys.executable).with_name("uv")]
    return next((str(path) for path in own if path.exists()), None) or shutil.which("uv")


@dataclass(frozen=True)
class Environment:
    """A virtual environment `path` made from `requirements` files, with a Python that the owner may name."""

    name: str
    path: Path
    requirements: tuple[Path, ...]
    python: str | None = None
    """A version (`3.12`) or an interpreter's path; None takes the one that makes the environment."""

    @property
    def interpreter(self) -> Path:
        """The Python inside the environment."""
        return self.path / "bin" / "python"

    def state(self) -> str:
        """Return `fresh`, `missing`, `half made` (no stamp) or `outdated`."""
        if not self.path.exists():
            return "missing"
        try:
            stamp = json.loads((self.path / STAMP).read_text())
        except (OSError, ValueError):
            return "half made"
        same = stamp.get("digest") == self._digest() and stamp.get("python") == self._python_inside()
        return "fresh" if same and self.interpreter.exists() else "outdated"

    def remove(self) -> None:
        """Remove it; of a link, the link."""
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)

    def write_stamp(self) -> None:
        """Declare the environment complete; the last step of making it."""
        stamp = {"digest": self._digest(), "python": self._python_inside()}
        (self.path / STAMP).write_text(json.dumps(stamp) + "\n")

    def _digest(self) -> str:
        digest = hashlib.sha256(repr(self.python).encode())
        for file in self.requirements:
            digest.update(file.read_bytes() if file.exists() else b"")
        return digest.hexdigest()

    def _python_inside(self) -> str | None:
        """The version that `pyvenv.cfg` names: uv writes `version_info`, venv writes `version`."""
        with contextlib.suppress(OSError):
            match = re.search(r"^version(?:_info)?\s*=\s*(\S+)", (self.path / "pyvenv.cfg").read_text(), re.M)
            return match[1] if match else None
        return None


def make(environment: Environment, uv: str, variables: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Make a framework's environment from nothing.

    Raises:
        CannotRun: uv could not; the message says what to do.

    """
    with _locked(environment.path):
        if environment.state() == "fresh":  # another process made it while this one waited
            return
        environment.remove()
        python = environment.python or BASE_PYTHON
        run_step([uv, "venv", "--quiet", "--python", python, str(environment.path)], variables, say)
        install(environment, uv, variables, say)


def install(
    environment: Environment,
    uv: str,
    variables: Mapping[str, str],
    say: Callable[[str], None],
    extra: tuple[str, ...] = (),
) -> None:
    """Install the requirements (and `extra` arguments of `uv pip install`), then write the stamp.

    Bytecode is compiled now: a server's first start must not be slower than its others.
    """
    files = [part for file in environment.requirements if file.suffix == ".txt" for part in ("-r", str(file))]
    target = ["--compile-bytecode", "--python", str(environment.interpreter)]
    command = [uv, "pip", "install", *target, *files, *extra]
    run_step(command, variables, say)
    environment.write_stamp()


def run_step(
    command: list[str], variables: Mapping[str, str], say: Callable[[str], None], cwd: Path | None = None
) -> None:
    """Run one step, handing each line it prints to `say`; on failure say what to do.

    Raises:
        CannotRun: the step failed.

    """
    lines: list[str] = []
    try:
        with subprocess.Popen(
            command,
            env=dict(variables),
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                say(line.rstrip())
    except OSError as error:
        raise CannotRun(f"{command[0]} cannot be run: {error.strerror}. {advice(str(error))}") from error
    if process.returncode:
        output = "\n".join(lines[-12:])
        shown = " ".join([Path(command[0]).name, *command[1:3]])
        raise CannotRun(f"{advice(output)}\n`{shown} …` ended with {process.returncode} and said:\n{output}")


_ADVICE = [
    (
        r'failed to pull image "kindest/node',
        "kind's node image cannot be pulled. Check the network, or name one that is here (KIND_NODE_IMAGE=…),"
        " or measure without a cluster: `make loadtest TARGET=local`.",
    ),
    (
        r"(?m)^(denied|unauthorized): |no basic auth credentials|insufficient_scope",
        "The registry refused: `docker login` to it first, with an account that may write there; some want "
        "each repository made before.",
    ),
    (
        r'(Get|Head) "https?://[^"]*/v2/',
        "The registry cannot be reached. Check its name, and the network and proxy of Docker's daemon.",
    ),
    (
        r"No space left on device|os error 28|Disk quota exceeded",
        "The disk is full. Free some gigabytes where the project lies (`modelswarm clean` removes what can "
        "be made again), or put uv's cache elsewhere with UV_CACHE_DIR.",
    ),
    (
        r"ensurepip|No module named '?(venv|pip)",
        "This Python cannot make a virtual environment. Install its venv module (Debian and Ubuntu: "
        "`apt-get install python3-venv`), or install uv, or name another: `make setup PYTHON=python3.12`.",
    ),
    (
        r"(?i)dns error|error sending request|failed to fetch|connection (refused|reset|broken)"
        r"|name resolution|Network is unreachable|tcp connect|operation timed out"
        r"|NewConnectionError|ConnectTimeout",
        "No package index could be reached. Check the network and proxy (HTTPS_PROXY), or point pip's "
        "index-url or find-links at a mirror that this machine reaches: uv is given the same settings.",
    ),
    (
        r"(?i)no interpreter found|No download found for request",
        "The Python that service.toml names is not here. Install it, or name another one there as `python`.",
    ),
    (
        r"(?i)no solution found|no matching distribution|has no wheels with a matching",
        "The package index does not have a version that requirements.txt pins for this Python and machine. "
        "`make lock` pins again from requirements.in.",
    ),
    (r"(?i)permission denied", "The project's folder or uv's cache cannot be written by this user."),
]


def advice(output: str) -> str:
    """Return the sentence that tells a person what to do about a tool's failure."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, output)), "This step failed.")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
