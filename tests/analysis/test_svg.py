"""What tells the backends of one plot apart."""

from xml.etree.ElementTree import Element

from analysis.svg import marker


def look(series: int) -> tuple[str, str]:
    """Colour and outline of a backend's mark."""
    parent = Element("g")
    marker(parent, 10, 10, series, "")
    return parent[0].attrib["class"].split()[1], parent[0].attrib["points"]


def test_twelve_backends_have_twelve_shapes() -> None:
    assert len({look(series)[1] for series in range(1, 13)}) == 12


def test_no_colour_and_shape_come_together_twice_in_twenty_four() -> None:
    assert len({look(series) for series in range(1, 25)}) == 24


def test_every_mark_lies_about_its_value() -> None:
    for series in range(1, 13):
        points = [[float(one) for one in pair.split(",")] for pair in look(series)[1].split()]
        for axis in zip(*points, strict=True):
            assert abs((min(axis) + max(axis)) / 2 - 10) < 1
            assert 8 <= max(axis) - min(axis) <= 13
