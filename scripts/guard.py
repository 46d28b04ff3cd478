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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.family import Family


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
