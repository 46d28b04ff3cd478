"""What every record read from a run folder has in common."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError


def _possible(when: datetime) -> datetime:
    if not 1970 <= when.year < 9999:
        raise ValueError("no run was made in that year")
    return when


Count = Annotated[int, Field(ge=0, le=2**53)]
Moment = Annotated[AwareDatetime, AfterValidator(_possible)]
"""A time that is one in every time zone: at the ends of the calendar, arithmetic overflows."""


class Part(BaseModel):
    """A part of a file. Unknown keys are let through: a newer writer may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


def encodable(value: Any) -> Any:
    """A JSON value without halves of characters, which no file can be written in: each is a question mark.

    Python reads them from ``"\\udce9"``, and names files by them whose names are not UTF-8.
    """
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def newer(name: str, schema: int, read: int) -> list[str]:
    """A sentence on a file of a schema that is newer than the one that is read here; none otherwise."""
    if schema <= read:
        return []
    return [
        f"{name}: was written by a newer modelswarm (schema {schema}, this one reads {read}): parts of it "
        "may be missing here."
    ]


def what_is_wrong(error: ValidationError) -> str:
    """The first thing that does not fit, as ``counts.planned is wrong (Input should be …)``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "it"
    return f"{where} is wrong ({first['msg']})"
