"""Removing what can be made again. Nothing outside the project's folder is touched, no process is ended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.project import Project

_MADE = ["artifacts", ".venvs", ".pytest_cache", ".mypy_cache", ".ruff_cache", "build", "dist"]
_SKIPPED = {".git", ".venv", ".venvs", "results", "artifacts"}


def removable(project: Project, results: bool, everything: bool) -> list[Path]:
    """Return what would be removed: what was built; with `results` runs too; with `everything` .venv too."""
    names = [*_MADE, *(["results"] if results or everything else []), *([".venv"] if everything else [])]
    found = [project.root / name for name in names]
    return [path for path in found if path.exists() or path.is_symlink()] + _bytecode(project.root)


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link without following it."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)


def size_bytes(path: Path) -> int:
    """Return the bytes that removing `path` would free at most; links are not followed."""
    if path.is_symlink():
        return 0
    total = 0
    for folder, _, files in os.walk(path):
        total += sum(os.lstat(os.path.join(folder, file)).st_size for file in files)
    return total


def _bytecode(root: Path) -> list[Path]:
    found = []
    for folder, folders, _ in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        if "__pycache__" in folders:
            folders.remove("__pycache__")
            found.append(Path(folder) / "__pycache__")
    return found
