"""README's tables against what they tell of."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.plan import shipped_plans
from scripts.project import Project


def rows(root: Path, heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by the name in their first column."""
    table = (root / "README.md").read_text().partition(f"\n{heading}\n")[2].partition("\n#")[0]
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in cells}


def test_of_backends_names_each_with_its_version_options_and_further_protocols(root: Path) -> None:
    services, told = Project(root).services(), rows(root, "## The backends")
    assert set(told) == set(services)
    for name, service in services.items():
        what, protocols, options, *_ = told[name]
        assert service.facts.version in what
        assert set(re.findall(r"`([a-z_]+)`", options)) == set(service.facts.options)
        assert set(service.facts.protocols) <= set(re.findall(r"`([a-z0-9_]+)`", protocols))


def test_of_plans_names_each(root: Path) -> None:
    assert set(rows(root, "### Plans")) == set(shipped_plans())


def test_of_k8s_installs_the_kserve_whose_types_the_manifests_are_checked_against(root: Path) -> None:
    pinned = re.findall(r"^kserve==(\S+)$", (root / "services/kserve/requirements.in").read_text(), re.M)
    charts = re.findall(r"/charts/kserve\S* --version v(\S+)", (root / "k8s/README.md").read_text())
    assert charts == pinned * 2  # its CRDs, and itself
