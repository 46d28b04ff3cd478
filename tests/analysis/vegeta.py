"""Results as `vegeta encode` writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 21, 14, 31, tzinfo=UTC)


def rows(
    latencies_ms: list[float], per_s: int = 10, body: str = "", begin: datetime = START
) -> list[dict[str, object]]:
    """A result per latency, the last of which failed."""
    last = len(latencies_ms) - 1
    return [
        {
            "attack": "", "seq": i, "code": 0 if i == last else 200,
            "timestamp": (begin + timedelta(seconds=i / per_s)).isoformat().replace("+00:00", "Z"),
            "latency": round(ms * 1e6), "bytes_out": 0, "bytes_in": 307,
            "error": 'Get "http://x": EOF, <b>' if i == last else "", "body": body or None, "method": "GET",
            "url": "http://x/", "headers": {},
        }
        for i, ms in enumerate(latencies_ms)
    ]  # fmt: skip


def as_json(latencies_ms: list[float], body: str = "", per_s: int = 10, begin: datetime = START) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows(latencies_ms, per_s, body, begin))


def as_csv(latencies_ms: list[float], body: str = "") -> str:
    lines = []
    for row in rows(latencies_ms, body=body):
        when = datetime.fromisoformat(str(row["timestamp"]))
        nanoseconds = round((when - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
        error = str(row["error"]).replace('"', '""')
        quoted = f'"{error}"' if error else ""
        lines.append(
            f"{nanoseconds},{row['code']},{row['latency']},0,307,{quoted},{body},,{row['seq']},GET,http://x/,\n"
        )
    return "".join(lines)
