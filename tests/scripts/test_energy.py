"""Energy by the processor's counters, played by files."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from scripts import energy
from scripts.energy import find_zones, metered


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for name, kind in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(f"{kind}\n")
        (folder / "max_energy_range_uj").write_text("9999999\n")
        (folder / "energy_uj").write_text("9000000\n")
    return tmp_path


class TestZones:
    def test_are_whole_packages(self, powercap: Path) -> None:
        assert [zone.name for zone in find_zones(powercap)] == ["intel-rapl:0 package-0", "intel-rapl:1 psys"]

    def test_that_cannot_be_read_are_left_out(self, powercap: Path) -> None:
        (powercap / "intel-rapl:0" / "energy_uj").unlink()
        (powercap / "intel-rapl:1" / "energy_uj").write_text("denied")
        assert find_zones(powercap) == []

    def test_count_on_when_their_counter_starts_again(self, powercap: Path) -> None:
        zone = find_zones(powercap)[0]
        readings = []
        for value in (9_500_000, 9_999_999, 0, 500_000):
            zone.file.write_text(f"{value}\n")
            readings.append(zone.advance())
        assert readings == pytest.approx([0.5, 0.999999, 1.0, 1.5])


class TestAMeter:
    def test_writes_rows_from_begin_to_end(self, powercap: Path, tmp_path: Path) -> None:
        seconds = itertools.count(100.0)
        with metered(tmp_path / "energy.csv", powercap, lambda: next(seconds)):
            pass
        with (tmp_path / "energy.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) >= 2
        assert {row["zone"] for row in rows} == {"intel-rapl:0 package-0", "intel-rapl:1 psys"}
        assert float(rows[0]["joules"]) == 0

    def test_writes_no_file_where_nothing_is_counted(self, tmp_path: Path) -> None:
        with metered(tmp_path / "energy.csv", tmp_path / "none"):
            pass
        assert not (tmp_path / "energy.csv").exists()

    def test_ends_with_its_counter(
        self, powercap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(energy, "PERIOD_S", 0.001)
        with metered(tmp_path / "energy.csv", powercap):
            (powercap / "intel-rapl:0" / "energy_uj").unlink()
        assert (tmp_path / "energy.csv").read_text().startswith("time,zone,joules")
