"""The JSON schema of ``report.json``, published as ``docs/report.schema.json``: ``python -m
analysis.schema``.

Its ``schema`` number grows when a reader of the old form would misread the new one; new keys may come at any
time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.report import Report

PUBLISHED = Path(__file__).resolve().parent.parent / "docs" / "report.schema.json"


def report_schema() -> dict[str, Any]:
    """The schema of what :func:`analysis.report.write_report` writes."""
    schema = Report.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "modelswarm report"}


def as_text() -> str:
    """The schema as it is published."""
    return json.dumps(report_schema(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(as_text(), encoding="utf-8")
    print(PUBLISHED)
