"""Pin everything again: `make lock` compiles each requirements.in, and pyproject.toml for the load side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from scripts.environments import find_uv, pip_settings, uv_environment

_LOCAL_VERSION = re.compile(r"(==[^\s;+]+)\+[\w.]+")


def portable(requirements: str) -> str:
    """Drop local versions (`torch==2.13.0+cpu`): another index has the same release without that name."""
    return _LOCAL_VERSION.sub(r"\1", requirements)


def main() -> int:
    """Compile all requirements of the project in the current folder; return the exit status."""
    root = Path.cwd()
    uv = find_uv(root)
    if uv is None:
        print("uv is not there: run `make setup` first.", file=sys.stderr)
        return 3
    # The load side runs on any system and Python; a framework's pins are for the Python of its image.
    jobs = [(["--universal", "pyproject.toml"], root / "requirements.txt")]
    jobs += [(["--universal", "--group", "dev", "-c", "requirements.txt"], root / "requirements-dev.txt")]
    sources = sorted(root.glob("services/*/requirements.in"))
    jobs += [([str(file.relative_to(root))], file.with_suffix(".txt")) for file in sources]
    variables = uv_environment(os.environ, pip_settings(os.environ))
    for source, target in jobs:
        command = [uv, "pip", "compile", "--quiet", "--python-version", "3.11"]
        command += ["--no-header", "--no-annotate", "--upgrade", *source]
        done = subprocess.run(
            command, cwd=root, env=variables, text=True, stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            return done.returncode
        target.write_text(portable(done.stdout))
        print(target.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
