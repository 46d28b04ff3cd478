"""Where a run is made: this machine, kind, or a cluster of yours."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import typer
from rich.console import Console

from scripts.cluster import images, kind, registry
from scripts.cluster.kube import Away, Kube, Object, contexts
from scripts.cluster.lease import NAME, refuse_driven
from scripts.cluster.target import DEFAULT_NAMESPACE, PART_OF, Place, remove_all
from scripts.errors import CannotRun, UserError, nearest
from scripts.project import Project, Service

TARGETS = ("auto", "local", "kind", "cluster")
REGISTRY_VARIABLE = "MODELSWARM_REGISTRY"


@dataclass(frozen=True)
class Wish:
    """What the command line says of where."""

    target: str = "auto"
    context: str | None = None
    registry: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    detach: bool = False


def resolve(project: Project, wish: Wish, console: Console) -> str:
    """Return `local`, `kind` or `cluster`; say which one `auto` came to, and why.

    Raises:
        UserError: there is no such target, or an option does not go with it.

    """
    if wish.target not in TARGETS:
        raise UserError(f"There is no target {wish.target!r}; {nearest(wish.target, TARGETS)}")
    target = wish.target
    if target == "auto":
        reason = kind.unusable(project) or kind.unmakeable(project)
        target = "local" if reason else "kind"
        why = f"kind cannot be used: {reason}" if reason else "Docker and kind are there"
        console.print(f"Target: {target} ({why}).", highlight=False, markup=False)
    if target == "kind" and wish.target == "kind" and (reason := kind.unusable(project)):
        raise UserError(f"The target kind cannot be used: {reason}. `--target local` needs neither.")
    given = {"--context": wish.context, "--registry": wish.registry}
    for option, value in given.items():
        # The variable is there for every command, whatever its target.
        if value and target != "cluster" and value != os.environ.get(REGISTRY_VARIABLE):
            raise UserError(
                f"{option} {value} goes with --target cluster only, and here the target is {target}."
            )
    if wish.detach and target == "local":
        raise UserError("--detach goes with --target kind or cluster: local processes end with the command.")
    return target


def lacking(service: Service) -> str | None:
    """Return what a framework lacks for a run in a cluster; its environment here is not asked for."""
    if not service.user_file.exists():
        return f"locustfiles/{service.user_file.name} is not there"
    for name in ("Dockerfile", "kustomization.yaml"):
        if not (service.folder / name).exists():
            return f"services/{service.name}/{name} is not there"
    for name in service.options:
        option = service.facts.options.get(name)
        if option and option.local_only:
            return f"{option.local_only}: `--target local` can have the option {name}"
    return None


def labelled(project: Project, target: str, wish: Wish, services: Sequence[Service]) -> list[Service]:
    """Return the frameworks, of each that has a stand-in with what the label of its image says.

    In kind that is the image that Docker has, as the next is built like it; in a cluster what was pushed.
    """
    if target == "local":
        return list(services)
    found = []
    for service in services:
        stand_in = None
        if service.facts.stand_in:
            (_, image) = images.find_images(project, [service.name])
            if target == "kind":
                built = images.inspect([image]).get(image.name)
                stand_in = built and built.stand_in
            elif wish.registry:
                its = registry.pushed(project).get(registry.named(wish.registry, image.reference))
                stand_in = its and its.get("stand_in")
        found.append(replace(service, image_is_real=stand_in is False))
    return found


def furnish(
    project: Project, target: str, wish: Wish, services: Sequence[Service], console: Console
) -> Place:
    """Have the cluster and its images ready for these frameworks.

    Raises:
        UserError: a cluster of yours needs a registry, or a context that is not there.
        CannotRun: kind or Docker failed, or the registry's images hold another model.

    """
    names = [service.name for service in services]
    if target == "kind":
        kind.make_ready(project, names, console)
        return Place("kind", kind.CONTEXT, wish.namespace, {}, wish.detach)
    if not wish.registry:
        raise UserError(
            "--target cluster needs --registry REGISTRY, where `modelswarm images push` has put the images."
        )
    context = wish.context or contexts()[1]
    if context is None:
        raise UserError("The kubeconfig has no current context: name one with --context.")
    wanted = images.find_images(project, [images.LOAD_SIDE, *names])
    renamed = registry.references(project, wanted, wish.registry, console)
    return Place("cluster", context, wish.namespace, renamed, wish.detach)


def cluster_at_hand(
    context: str | None, namespace: str, begun: Sequence[Mapping[str, Any]] = ()
) -> Kube | None:
    """Return the cluster that is meant.

    When none is named that is the one of the first run of those `begun` that is in a cluster which is known
    here (and in that namespace, if one is named), then kind's if it is there, else the current one.
    """
    try:
        known, current = contexts()
    except UserError:
        return None
    if context is None:
        for where in begun:
            if where["context"] in known and namespace in (DEFAULT_NAMESPACE, where["namespace"]):
                return Kube(where["context"], where["namespace"])
    chosen = context or (kind.CONTEXT if kind.CONTEXT in known else current)
    return Kube(chosen, namespace) if chosen else None


def _namespace(kube: Kube) -> Object | None:
    """Return the namespace, None where there is none; bare where the account has rights inside it only."""
    try:
        return kube.read("namespace", kube.namespace)
    except Away:
        raise
    except CannotRun:
        return {"metadata": {}}


def clear(project: Project, wish: Wish, console: Console, ask: bool) -> None:
    """Remove what runs left: kind's cluster with the images, or what is in a namespace of another.

    The namespace itself goes only where a run has made it. With `ask`, the user is asked before.

    Raises:
        UserError: there is no such context, or the user did not agree.
        Taken: a run is going on there.

    """
    if resolve(project, wish, console) == "kind":
        _refuse_driven_kind(wish.namespace)
        _agree(f"the kind cluster {kind.CLUSTER} and the images" if kind.exists() else "the images", ask)
        kind.remove(project, console)
        return
    context = wish.context or contexts()[1]
    if context is None:
        raise UserError("The kubeconfig has no current context: name one with --context.")
    kube = Kube(context, wish.namespace)
    found = _namespace(kube)
    if found is None:
        console.print(f"There is no namespace {wish.namespace} in {context}.", highlight=False)
        return
    refuse_driven(kube)
    ours = found["metadata"].get("labels", {}).get(PART_OF) == "modelswarm"
    what = "the namespace" if ours else "what runs left in the namespace"
    what = f"{what} {wish.namespace} from {context}"
    _agree(what, ask)
    console.print(f"Removing {what} …", highlight=False)
    if ours:
        kube.delete("namespace", wish.namespace)
    else:
        remove_all(kube)


def _refuse_driven_kind(namespace: str) -> None:
    """Look whether anybody's run is going on in the kind cluster, which goes as a whole.

    Raises:
        Taken: one is.

    """
    with suppress(Away):  # where no API server is, no run goes on; nor should one look for it for long
        for lease in _kind_leases(namespace):
            refuse_driven(Kube(kind.CONTEXT, lease["metadata"]["namespace"], patience_s=0.0))


def _kind_leases(namespace: str) -> list[Object]:
    try:
        kube = Kube(kind.CONTEXT, namespace, patience_s=0.0)
    except UserError:  # no kubeconfig here knows the cluster
        return []
    return kube.leases(NAME)


def _agree(what: str, ask: bool) -> None:
    """Let the user agree to the removal.

    Raises:
        UserError: the user did not.

    """
    if ask and not (sys.stdin.isatty() and typer.confirm(f"Remove {what}?")):
        raise UserError(f"Nothing was removed: say --yes to remove {what}.")
