"""Holds one backend as `modelswarm run` does, until it is killed; `held_backend.py KEY FOLDER` prints:

its mark and folder; what is wrong with its answers; what it has open outside its folder.
"""

import sys
import threading
from pathlib import Path

import locust  # noqa: F401  # before anything that imports ssl: gevent patches it

from scripts.guard import guarded
from tests.services.backends import Backend

if __name__ == "__main__":
    backend = Backend(sys.argv[1], Path(sys.argv[2]))
    with guarded(backend.server.family.mark, backend.scratch):
        backend.start()
        backend.look()
        print(backend.server.family.mark, backend.scratch, flush=True)
        print(*backend.wrong(), sep=" | ", flush=True)
        print(*backend.touched, sep="|", flush=True)
        threading.Event().wait()
