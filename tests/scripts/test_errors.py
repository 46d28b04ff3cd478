"""Cleaning up after something that may have gone wrong."""

from __future__ import annotations

import pytest

from scripts.errors import CannotRun, afterwards
from scripts.stop import Interrupted
from scripts.target import NeverReady


def cannot() -> None:
    raise CannotRun("the pod cannot be deleted")


class TestAfterwards:
    def test_what_cannot_be_cleaned_up_is_told_after_what_went_wrong_before(self) -> None:
        both = r"^out of memory; then: the pod cannot be deleted$"
        with pytest.raises(NeverReady, match=both), afterwards(cannot):
            raise NeverReady("out of memory")

    def test_alone_it_is_what_went_wrong(self) -> None:
        with pytest.raises(CannotRun, match=r"^the pod cannot be deleted$"), afterwards(cannot):
            pass

    def test_a_user_who_stops_is_not_told_otherwise(self) -> None:
        with pytest.raises(Interrupted), afterwards(cannot):
            raise Interrupted

    def test_cleans_up_once(self) -> None:
        done: list[int] = []
        with pytest.raises(CannotRun, match=r"^out of memory$"), afterwards(lambda: done.append(1)):
            raise CannotRun("out of memory")
        assert done == [1]
