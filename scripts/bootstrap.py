"""Make the load side's environment `.venv`: what `make setup` runs before anything is installed.

Standard library only, and readable by an old Python, so that it can say which Python it needs.
"""

import os
import shutil
import subprocess
import sys

NEEDED = (3, 11)


def main():  # type: () -> int
    """Find a Python that is new enough, then make `.venv` with it unless it is up to date."""
    if sys.version_info < NEEDED:
        for minor in range(15, NEEDED[1] - 1, -1):
            newer = shutil.which("python3.%d" % minor)
            if newer:
                return subprocess.call([newer, "-m", "scripts.bootstrap"])
        sys.stderr.write(
            "modelswarm needs Python 3.11 or newer; %s is %d.%d. Install one and name it: "
            "`make setup PYTHON=python3.12`.\n" % (sys.executable, sys.version_info[0], sys.version_info[1])
        )
        return 3
    from scripts.load_side import make_load_side

    return make_load_side(os.getcwd())


if __name__ == "__main__":
    sys.exit(main())
