from itertools import pairwise
from xml.etree import ElementTree

from analysis.plots_load import Limit, against_limit


def test_intervals_of_capacities_do_not_lie_upon_each_other_and_have_ends() -> None:
    limits = [
        Limit(f"server {series}", series, [(10.0, 0.5, "x"), (20.0, 1.5, "y")], (12.0, 18.0))
        for series in range(1, 13)
    ]
    drawn = ElementTree.fromstring(against_limit("p95", limits))
    bars = [one for one in drawn.iter("rect") if one.get("class") == "interval"]
    tops = [(float(one.attrib["y"]), float(one.attrib["height"])) for one in bars]
    assert len(tops) == 12
    assert all(a + height < b for (a, height), (b, _) in pairwise(tops))
    assert sum(one.get("class") == "end" for one in drawn.iter("line")) == 24
