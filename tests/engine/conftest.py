"""What the engine's tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time, so that a red run can be repeated; and no deadline, for busy machines.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
