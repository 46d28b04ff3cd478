"""Other programs' files: results of other load tools taken in, a run's numbers given out."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.runfolder import NotARunFolder
from analysis.words import counted
from scripts.errors import CannotRun, UserError, nearest


def import_run(
    files: Sequence[Path], names: Sequence[str], scenario: str, out: Path
) -> tuple[Path, list[str]]:
    """Write a run folder of other tools' results; return it and what is odd about the files.

    Of Locust's also what was given to its ``--csv``, and a folder that holds the files of one, are taken.

    Raises:
        UserError: a file cannot be read, the names do not fit the files, or `out` is no folder.
        CannotRun: the folder cannot be written.

    """
    from analysis.importing import import_files, name_of
    from scripts.run import new_folder
    from scripts.trial import utc_now

    files = [_meant(file) for file in files]
    given = list(names) or [name_of(file) for file in files]
    if len(given) != len(files):
        raise UserError(
            f"{counted(len(files), 'file')} cannot have {counted(len(given), 'name')}: write --name once for "
            "each file."
        )
    for name in [*given, scenario]:
        if given.count(name) > 1:
            raise UserError(f"Two files would be called {name!r}: write --name once for each file.")
        if name != name.strip(". ") or not name.isprintable() or not name or "/" in name:
            raise UserError(f"{name!r} cannot be the name of a folder.")
    _may_be_folder(out)
    run = new_folder(out, utc_now(), "import")
    try:
        odd = import_files(files, run, given, scenario, shlex.join(["modelswarm", *sys.argv[1:]]))
    except ValueError as error:
        shutil.rmtree(run, ignore_errors=True)
        raise UserError(str(error)) from error
    except OSError as error:
        raise CannotRun(
            f"{run} cannot be written: {error.strerror}. Name another folder with --out."
        ) from error
    return run, odd


def _may_be_folder(out: Path) -> None:
    """Refuse what is a file, or would be below one."""
    there = next((path for path in (out, *out.parents) if path.exists()), None)
    if there and not there.is_dir():
        raise UserError(f"{there} is there and is no folder: name another with --out.")


def _meant(given: Path) -> Path:
    """The file of results that is meant by a file, by the prefix of Locust's, or by a folder."""
    of_prefix = Path(f"{given}_stats.csv")
    if given.is_file() or of_prefix.is_file():
        return given if given.is_file() else of_prefix
    if not given.is_dir():
        raise UserError(f"There is no file {given}.")
    found = [str(file) for file in sorted(given.glob("*stats.csv"))]
    if len(found) == 1:
        return Path(found[0])
    of_it = ", ".join(found[:-1]) + f" or {found[-1]}" if found else "such as PREFIX_stats.csv"
    raise UserError(f"{given} is a folder: name a file of it, {of_it}.")


def export_run(folder: Path, form: str, out: Path) -> list[Path]:
    """Write a run's numbers in a form for other programs and return the files.

    Raises:
        UserError: there is no such form or run, or `out` is no folder.
        CannotRun: what the form needs is not installed or in the run, or the folder cannot be written.

    """
    from analysis.exporting import FORMS, NoParquet, NothingToExport, export

    if form not in FORMS:
        raise UserError(f"There is no format {form!r}; {nearest(form, FORMS)}")
    _may_be_folder(out)
    try:
        return export(folder, form, out)
    except NotARunFolder as error:
        raise UserError(str(error)) from error
    except (NoParquet, NothingToExport) as error:
        raise CannotRun(str(error)) from error
    except OSError as error:
        raise CannotRun(
            f"{out} cannot be written: {error.strerror}. Name another folder with --out."
        ) from error
