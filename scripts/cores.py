"""Which cores the server gets and which the load generator: they must not share one where there are two."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """A split of this machine's cores, and what of it could not be held, a sentence each."""

    server: tuple[int, ...]
    generator: tuple[int, ...]
    not_held: tuple[str, ...] = ()


def usable_cores() -> tuple[int, ...] | None:
    """Return the cores this process may use; None where the system cannot pin a process to cores (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return tuple(sorted(os.sched_getaffinity(0)))


def split_cores(usable: Sequence[int] | None, wanted: int) -> Cores:
    """Give the server the last `wanted` cores and the generator the others, at least one each.

    The first core serves most interrupts, hence the last ones for the server.
    """
    if usable is None:
        return Cores((), (), ("This system cannot pin processes: server and generator shared its cores.",))
    if len(usable) == 1:
        sentence = (
            "There is one core: server and generator shared it, so latency includes the generator's work."
        )
        return Cores(tuple(usable), tuple(usable), (sentence,))
    held = min(wanted, len(usable) - 1)
    not_held: tuple[str, ...] = ()
    if held < wanted:
        not_held = (
            f"The server should have {wanted} cores (threads) and got {held}: {len(usable)} are there, "
            "and the generator needs one of its own.",
        )
    return Cores(tuple(usable[-held:]), tuple(usable[:-held]), not_held)


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pin the calling thread to `cores` for the block: what it starts meanwhile inherits them."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
