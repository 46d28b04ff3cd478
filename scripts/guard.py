"""A small process that outlives the command, so that `kill -9` of it leaves no server behind.

`python -m scripts.guard MARK FOLDER` waits until its standard input ends, which is when the command has ended
in whatever way, then kills what carries the mark and removes the run's scratch folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.family import Family

SHORT = Path("/tmp")
"""Where scratch folders go if the temporary folder's path is longer."""


def scratch_folder() -> Path:
    """Make a scratch folder for a run, to be watched by its guard and removed by its owner.

    Sockets are made inside it, and the path of one has 107 bytes at most, of which Ray's needs 83 for itself.
    The temporary folder of a batch system, of nix-shell or of macOS is too long for that.
    """
    long = len(tempfile.gettempdir()) > len(str(SHORT))
    usable = SHORT.is_dir() and os.access(SHORT, os.W_OK | os.X_OK)
    return Path(tempfile.mkdtemp(prefix="msw-", dir=SHORT if long and usable else None))


@contextmanager
def guarded(mark: str, scratch: Path) -> Iterator[None]:
    """Have a guard watch this process while the block runs."""
    # Isolated from Ctrl-C by its session; the pipe's writing end is ours alone (Python closes it on exec).
    guard = subprocess.Popen(
        [sys.executable, "-m", "scripts.guard", mark, str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parent.parent,
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        guard.wait()


def main() -> None:
    """Wait for the end of standard input, then clean up."""
    mark, scratch = sys.argv[1:]
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    Family(mark, Path(scratch)).kill()
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
