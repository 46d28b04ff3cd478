"""What every record read from a run folder has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0, le=2**53)]


class Part(BaseModel):
    """A part of a file. Unknown keys are let through: a newer writer may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def what_is_wrong(error: ValidationError) -> str:
    """The first thing that does not fit, as ``counts.planned is wrong (Input should be …)``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "it"
    return f"{where} is wrong ({first['msg']})"
