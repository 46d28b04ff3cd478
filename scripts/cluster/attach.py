"""A run in a cluster outlives the command that began it: following it, and taking it over."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.cluster.kube import Kube, contexts
from scripts.cluster.lease import NAME, Holder, Taken, driven, me
from scripts.cluster.target import ClusterTarget, Place, kept_record
from scripts.errors import OK, UNMEASURED, CannotRun, UserError
from scripts.family import lives
from scripts.looks import lines
from scripts.plan import Plan, Step, steps
from scripts.progress import Progress
from scripts.project import Project
from scripts.run import Lineup, RunRecord, begin_run, make_run
from scripts.session import conclude, reported_anyway
from scripts.stop import Interrupted, Stop
from scripts.target import Target
from scripts.trial import TrialRecord, utc_now

DRIVER_LOG = "driver.log"
_LOOK_S = 1.0
_START_S = 60.0


def start_detached(lineup: Lineup, open_target: Callable[[Stop], Target], out: Path, console: Console) -> int:
    """Begin a run and leave it to a process that outlives this command and its terminal.

    Raises:
        CannotRun: the process ended at once; the message has its last words.

    """
    target = open_target(Stop())
    assert isinstance(target, ClusterTarget)  # the local one is refused before
    record = begin_run(lineup, target, out)
    code = "from scripts.cli import main; main()"
    command = [sys.executable, "-c", code, "--root", str(lineup.project.root), "attach", str(record.folder)]
    log = record.folder / DRIVER_LOG
    with log.open("wb") as output:
        driver = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and _holder(target.kube, record.folder.name) is None:
        if driver.poll() is not None:
            raise CannotRun(f"The run did not start: {log.read_text(errors='replace').strip()[-800:]}")
        time.sleep(_LOOK_S)
    console.print(f"The run {record.folder.name} goes on by itself (process {driver.pid}).", highlight=False)
    name = called(lineup.project, record.folder)
    console.print(
        f"`modelswarm attach {name}` follows it, and finishes it if it has stopped.", soft_wrap=True
    )
    return OK


def attach(project: Project, name: str | None, kube: Kube | None, console: Console) -> int:
    """Follow a run to its end, or finish it when nobody drives it any more; write its report.

    Raises:
        UserError: there is no such run.
        Taken: somebody elsewhere drives it.

    """
    folder, text = find(project, name, kube)
    try:
        record = RunRecord.read(folder, text)
        plan = Plan.model_validate(record.head["plan"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'run.json'} is not that of a run which this version can go on with: {error}"
        ) from error
    if "cluster" not in record.head:
        raise UserError(f"{folder.name} was made on this machine, so nothing of it can be left to fetch.")
    place = place_of(record, kube)
    services = project.select(record.head["backends"])
    stop, progress = Stop(), Progress(console)
    with stop.on_signals():
        target = ClusterTarget(project, plan, record.head["cluster"]["workers"], place, stop)
        finished = _has_ended(record) and record.head["status"] != "failed"
        try:
            finished = finished or follow(record, plan, target.kube, progress, stop)
        except Interrupted:
            name = called(project, folder)
            console.print(f"The run goes on; `modelswarm attach {name}` comes back to it.", soft_wrap=True)
            return UNMEASURED
        if not finished:
            record = RunRecord.read(folder, _newest(folder, target.kube) or text)
            record.note = target.note
            _reopen(record)
            with reported_anyway(record, console):
                make_run(Lineup(project, plan, services), target, record, stop, progress)
    return conclude(folder, stop, console)


def called(project: Project, folder: Path) -> str:
    """Return what `attach` finds a run by."""
    return folder.name if folder.parent.resolve() == project.results.resolve() else shlex.quote(str(folder))


def left_open(project: Project) -> list[dict[str, Any]]:
    """Return in which clusters runs of this folder are that are not ended or not fetched, newest first."""
    found = []
    for file in sorted(project.results.glob("*/run.json"), reverse=True):
        with suppress(OSError, ValueError, KeyError, TypeError):  # what another version wrote is no hint
            record = RunRecord.read(file.parent, file.read_text())
            if "cluster" in record.head and not _has_ended(record):
                where = record.head["cluster"]
                found.append({"context": where["context"], "namespace": where["namespace"]})
    return found


def place_of(record: RunRecord, at_hand: Kube | None) -> Place:
    """Return where a run was begun; its cluster may have another name on this machine."""
    cluster = record.head["cluster"]
    context = cluster["context"]
    if at_hand is not None and context not in contexts()[0]:
        context = at_hand.context
    return Place(
        kind=record.head["target"],
        context=context,
        namespace=cluster["namespace"],
        images=cluster["images"],
        detached=cluster["detached"],
    )


def find(project: Project, name: str | None, kube: Kube | None) -> tuple[Path, str]:
    """Return a run's folder and its `run.json`: from this machine, else from the cluster.

    Raises:
        UserError: neither has it.
        Taken: somebody drives it whose folder is not here.

    """
    if name is not None:
        for folder in (Path(name), project.results / name):
            if (folder / "run.json").exists():
                return folder.resolve(), (folder / "run.json").read_text()
    kept = kept_record(kube) if kube is not None else None
    if kube is None or kept is None or name not in (None, kept[0]):
        where = f"the namespace {kube.namespace} of {kube.context}" if kube else "a cluster (none is known)"
        raise UserError(f"There is no run {name or ''} in {project.results}, nor in {where}.")
    folder, holder = project.results / kept[0], _holder(kube, kept[0])
    if holder is not None and holder.who == me() and (Path(holder.folder) / "run.json").exists():
        folder = Path(holder.folder)  # begun with --out, or from another checkout
    if (folder / "run.json").exists():
        return folder, (folder / "run.json").read_text()
    if holder is not None and driven(kube, holder, time.time()):
        raise Taken(kube.namespace, holder, driven=True)  # a copy would not be written to any more
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(kept[1])
    return folder, kept[1]


def follow(record: RunRecord, plan: Plan, kube: Kube, progress: Progress, stop: Stop) -> bool:
    """Show a run that another process drives; return whether it came to its end.

    Raises:
        Taken: the process writes to another folder, or on another machine.

    """
    holder = _holder(kube, record.folder.name)
    if holder is None or holder.is_me or not driven(kube, holder, time.time(), stop.sleep):
        return False
    if not holder.here or Path(holder.folder) != record.folder.resolve():
        raise Taken(kube.namespace, holder, driven=True)
    order = steps(plan, list(record.head["backends"]))
    with progress.showing(plan, order, record):
        _show_trials(record, order, lambda: lives(holder.pid), progress, stop)
    while lives(holder.pid):
        stop.sleep(_LOOK_S)
    return _has_ended(_again(record.folder))


def _has_ended(record: RunRecord) -> bool:
    """Tell whether nothing is left to be done or to be fetched."""
    return record.head["ended"] is not None and not any(trial.unfetched for trial in record.trials)


def _show_trials(
    record: RunRecord, order: Sequence[Step], goes_on: Callable[[], bool], progress: Progress, stop: Stop
) -> None:
    """Show each trial and look from now on, while somebody drives the run; it may end before the last one."""
    done = {trial.order for trial in record.trials if trial.ended is not None}
    heard = len(lines(record))
    for step in [step for step in order if step.order not in done]:
        while (trial := _trial(record.folder, step)) and trial.status == "pending" and goes_on():
            stop.sleep(_LOOK_S)
        for line in (told := lines(_again(record.folder)))[heard:]:
            progress.say(line)
        heard = len(told)
        if trial is None or trial.status == "pending":
            return
        with progress.trial(step, trial) as tell:
            while trial.status == "running" and goes_on():
                stop.sleep(_LOOK_S)
                vars(trial).update(vars(_trial(record.folder, step)))
                tell(trial.status)


def _trial(folder: Path, step: Step) -> TrialRecord | None:
    """Return what is known of a trial by now; None if it was taken off, as the run was settled without it."""
    return next((trial for trial in _again(folder).trials if trial.order == step.order), None)


def _again(folder: Path) -> RunRecord:
    return RunRecord.read(folder, (folder / "run.json").read_text())


def _newest(folder: Path, kube: Kube) -> str | None:
    """Return the `run.json` that knows of more ended trials: what is here may be a copy from the cluster.

    Of two that know the same it is this machine's, which is written first.
    """
    found = []
    with suppress(OSError):
        found.append((folder / "run.json").read_text())
    kept = kept_record(kube)
    if kept and kept[0] == folder.name:
        found.append(kept[1])
    return max(found, key=_ended_trials, default=None)


def _ended_trials(text: str) -> int:
    return sum(trial["ended"] is not None for trial in json.loads(text)["trials"])


def _holder(kube: Kube, run: str) -> Holder | None:
    lease = kube.lease(NAME)
    holder = Holder.of(lease) if lease else None
    return holder if holder and holder.run == run else None


def _reopen(record: RunRecord) -> None:
    """Say of a run that it goes on; a trial that was under way is looked for, or made again."""
    record.head |= {"status": "running", "ended": None}
    if any(trial.started for trial in record.trials):
        under_way = [trial.path for trial in record.trials if trial.status == "running"]
        record.head.setdefault("resumed", []).append({"at": utc_now(), "under_way": under_way})
    record.save()
