"""Reading ASAP's XML: what the outlines enclose, in real files and made ones, and what is refused."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import shapely
from data_helpers import assert_refused
from defusedxml.ElementTree import parse

from study.data.datasets.camelyon16_slides import GROUPS
from study.data.slides.annotations import Annotation, read_annotation

REAL = Path(__file__).parents[2] / "shared" / "data" / "camelyon16_annotations"
SQUARE = [(10, 10), (50, 10), (50, 50), (10, 50)]
HOLE = [(20, 20), (30, 20), (30, 30), (20, 30)]

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real annotations are not here")


def outline(points, *, group="metastasis", kind="Polygon", name="_0") -> str:
    coordinates = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(points))
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def asap(*outlines: str) -> str:
    return f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{"".join(outlines)}</Annotations></ASAP_Annotations>'


@pytest.fixture
def read(tmp_path):
    """Write the text to a file and read that; ``read.path`` is its name."""

    def read(text, **options) -> Annotation:
        read.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotation(read.path, groups=GROUPS, **options)

    read.path = tmp_path / "tumor_001.xml"
    return read


def circle(radius: float, count: int, centre: float = 500) -> np.ndarray:
    angle = np.arange(count) / count * 2 * np.pi
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def shoelace(points: np.ndarray) -> float:
    """The enclosed area, in fractions: at the coordinates of a slide floats lose some 1e-12 of it, or more."""
    exact = [(Fraction(x), Fraction(y)) for x, y in np.asarray(points, float).tolist()]
    edges = zip(exact, exact[1:] + exact[:1], strict=True)
    return float(abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges)) / 2)


def real_points(name: str) -> list[np.ndarray]:
    """The points of each outline of a real file, (N, 2)."""
    return [
        np.array([[float(point.get("X")), float(point.get("Y"))] for point in element.iter("Coordinate")])
        for element in parse(REAL / f"{name}.xml").iter("Annotation")
    ]


def winding_number(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How often the outline goes round each place: its upward less its downward edges to the right."""
    (x0, y0), (x1, y1) = np.asarray(points, float).T[:, :, None], np.roll(points, -1, axis=0).T[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        right = x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return ((y0 <= y) & (y < y1) & right).sum(axis=0) - ((y1 <= y) & (y < y0) & right).sum(axis=0)


# --- real files ---


@needs_real
@pytest.mark.parametrize(
    ("name", "outlines", "exclusions", "points", "area", "excluded", "holes", "splines", "repaired"),
    [
        ("patient_004_node_4", 3, 0, 35, 252_947.4, 0, 0, 0, 0),
        ("tumor_009", 6, 0, 10_778, 850_597_580.9, 0, 0, 6, 3),
        ("tumor_011", 63, 0, 38_847, 206_758_930.7, 0, 2, 0, 15),
        ("tumor_039", 4, 144, 47_197, 196_408_016.8, 10_555_853.5, 145, 0, 27),
    ],
)
def test_real_annotations(name, outlines, exclusions, points, area, excluded, holes, splines, repaired):
    annotation = read_annotation(REAL / f"{name}.xml", groups=GROUPS, size=(100_000, 222_000))
    assert (annotation.outlines, annotation.exclusions, annotation.points) == (outlines, exclusions, points)
    assert annotation.tumour.area == pytest.approx(area, abs=1)
    assert annotation.excluded.area == pytest.approx(excluded, abs=1)
    assert annotation.holes == holes
    assert (len(annotation.splines), len(annotation.repaired)) == (splines, repaired)
    assert annotation.tumour.is_valid
    assert not annotation.ungrouped + annotation.two_point + annotation.other + annotation.clipped


@needs_real
@pytest.mark.parametrize("name", ["patient_004_node_4", "tumor_009", "tumor_011", "tumor_039"])
def test_real_areas_are_those_of_a_brute_force_scan(name):
    """Along lines 31.7 px apart: where an outline winds round, and no exclusion does."""
    edges = []  # (tumour or excluded, outline, x0, y0, x1, y1)
    for n, element in enumerate(parse(REAL / f"{name}.xml").iter("Annotation")):
        points = np.array([[float(c.get("X")), float(c.get("Y"))] for c in element.iter("Coordinate")])
        sign = -1 if element.get("PartOfGroup") == "negative" else 1
        which = np.tile([sign, n], (len(points), 1))
        edges.append(np.concatenate([which, points, np.roll(points, -1, axis=0)], axis=1))
    sign, number, x0, y0, x1, y1 = np.concatenate(edges).T
    tumour, excluded, step = 0.0, 0.0, 31.7
    for y in np.arange(y0.min(), y0.max(), step) + step / 2:
        cut = np.flatnonzero((y0 <= y) != (y1 <= y))
        at = x0[cut] + (y - y0[cut]) * (x1[cut] - x0[cut]) / (y1[cut] - y0[cut])
        turns: dict[tuple[float, float], int] = {}
        before = 0.0
        for n in np.argsort(at):
            signs = {key[0] for key, turn in turns.items() if turn}
            tumour += (at[n] - before) * step if signs == {1} else 0
            excluded += (at[n] - before) * step if -1 in signs else 0
            before, key = at[n], (sign[cut[n]], number[cut[n]])
            turns[key] = turns.get(key, 0) + (1 if y1[cut[n]] > y0[cut[n]] else -1)
    annotation = read_annotation(REAL / f"{name}.xml", groups=GROUPS)
    assert annotation.tumour.area == pytest.approx(tumour, rel=1e-2 if tumour < 1e6 else 2e-4)
    assert annotation.excluded.area == pytest.approx(excluded, rel=1e-2)  # small shapes, few lines


@needs_real
def test_the_area_of_simple_real_outlines_is_exact():
    annotation = read_annotation(REAL / "patient_004_node_4.xml", groups=GROUPS)
    assert annotation.tumour.area == pytest.approx(sum(map(shoelace, real_points("patient_004_node_4"))), rel=1e-12)


# --- groups ---


@pytest.mark.parametrize("group", GROUPS)
def test_every_known_group_is_tumour_or_cut_out_of_it(read, group):
    annotation = read(asap(outline(SQUARE), outline(HOLE, group=group, name="inner")))
    excluded = GROUPS[group] == "excluded"
    assert annotation.tumour.area == (1500 if excluded else 1600)
    assert annotation.excluded.area == (100 if excluded else 0)
    assert (annotation.outlines, annotation.exclusions, annotation.holes) == ((1, 1, 1) if excluded else (2, 0, 0))
    assert annotation.ungrouped == (("inner",) if group == "None" else ())


def test_the_table_of_groups_is_that_of_the_readme_and_the_scripts():
    assert {name for name, kind in GROUPS.items() if kind == "tumour"} == {
        "_0", "_1", "Tumor", "metastasis", "metastases",
    }  # fmt: skip
    assert {name for name, kind in GROUPS.items() if kind == "excluded"} == {
        "_2", "Exclusion", "None", "negative", "normal",
    }  # fmt: skip


def test_an_unknown_group_is_named_with_the_known_ones(read):
    with assert_refused(read.path, "'_7'", "unknown group 'stroma'", *GROUPS):
        read(asap(outline(SQUARE), outline(SQUARE, group="stroma", name="_7")))


def test_an_unknown_group_that_no_outline_is_in_does_no_harm(read):
    text = asap(outline(SQUARE)).replace(
        "</ASAP", '<AnnotationGroups><Group Name="stroma" PartOfGroup="None"/></AnnotationGroups></ASAP'
    )
    assert read(text).tumour.area == 1600


def test_exclusions_count_once_wherever_they_lie(read):
    outside = [(60, 60), (70, 60), (70, 70), (60, 70)]
    across = [(45, 20), (55, 20), (55, 30), (45, 30)]
    annotation = read(asap(*(outline(p, group="_2") for p in (HOLE, HOLE, outside, across)), outline(SQUARE)))
    assert annotation.tumour.area == 1600 - 100 - 50
    assert annotation.excluded.area == 300
    assert annotation.holes == 1


# --- shapes ---


def test_overlapping_outlines_count_once(read):
    assert read(asap(outline(SQUARE), outline(SQUARE), outline(HOLE))).tumour.area == 1600


def test_a_repeated_first_point_and_points_given_twice_change_nothing(read):
    doubled = [point for point in SQUARE for _ in range(2)]
    for points in ([*SQUARE, SQUARE[0]], doubled):
        annotation = read(asap(outline(points), outline(points, kind="Spline")))
        assert annotation.repaired == ()
        assert read(asap(outline(points))).tumour.equals(shapely.box(10, 10, 50, 50))


def test_points_stand_in_the_order_that_they_name(read):
    shuffled = "".join(f'<Coordinate Order="{n}" X="{SQUARE[n][0]}" Y="{SQUARE[n][1]}"/>' for n in (2, 0, 3, 1))
    text = asap(outline([])).replace("<Coordinates>", f"<Coordinates>{shuffled}")
    assert read(text).tumour.area == 1600
    assert read(text).repaired == ()


def test_rectangles_are_polygons(read):
    assert read(asap(outline(SQUARE, kind="Rectangle"))).tumour.area == 1600


@pytest.mark.parametrize("points", [[], [(1, 1)], [(1, 1), (5, 5)], [(1, 1), (5, 5), (1, 1)], [(1, 1), (3, 3), (9, 9)]])
@pytest.mark.parametrize("kind", ["Polygon", "Spline"])
def test_an_outline_without_area_is_left_out_and_reported(read, points, kind):
    annotation = read(asap(outline(SQUARE), outline(points, kind=kind, name="thin")), size=(100, 100))
    assert annotation.two_point == ("thin",)
    assert annotation.tumour.area == 1600
    assert (annotation.outlines, annotation.points) == (1, 4)


@pytest.mark.parametrize("kind", ["Dot", "PointSet", "Measurement"])
def test_what_is_no_outline_is_left_out_and_reported(read, kind):
    annotation = read(asap(outline(SQUARE), outline(HOLE, kind=kind, name="mark", group="None")))
    assert annotation.other == ("mark",)
    assert annotation.tumour.area == 1600


def test_an_unknown_type_is_refused(read):
    with assert_refused(read.path, "'_0'", "unknown type 'Ellipse'"):
        read(asap(outline(SQUARE, kind="Ellipse")))


def test_both_halves_of_a_bow_tie_are_kept(read):
    annotation = read(asap(outline([(0, 0), (10, 10), (10, 0), (0, 10)], name="tie")))
    assert annotation.repaired == ("tie",)
    assert annotation.tumour.area == 50


def test_where_the_pen_overshoots_its_start_is_no_hole(read):
    twice = [(0, 0), (20, 0), (20, 20), (-5, 20), (-5, -5), (10, -5), (10, 10), (0, 10)]
    annotation = read(asap(outline(twice)))
    assert annotation.holes == 0
    assert annotation.tumour.covers(shapely.box(1, 1, 9, 9))


def test_a_hole_drawn_in_one_go_with_the_outline_is_a_hole(read):
    keyhole = [*SQUARE, SQUARE[0], *reversed(HOLE), HOLE[-1]]
    assert read(asap(outline(keyhole))).tumour.area == 1500
    assert read(asap(outline(keyhole))).holes == 1


def test_self_crossing_outlines_enclose_what_they_wind_round(read):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 10, (2, 300))
    for n in range(60):
        points = rng.uniform(0, 10, (12, 2)) if n % 2 else rng.integers(0, 8, (12, 2)).astype(float)
        tumour = read(asap(outline(points))).tumour
        assert tumour.is_valid
        assert (shapely.contains_xy(tumour, x, y) == (winding_number(points, x, y) != 0)).all()


def test_a_sparse_spline_is_round(read):
    annotation = read(asap(outline(circle(100, 6), kind="Spline", name="round")))
    assert annotation.splines == ("round",)
    assert annotation.points == 6
    assert shoelace(circle(100, 6)) < 0.83 * np.pi * 100**2
    assert annotation.tumour.area == pytest.approx(np.pi * 100**2, rel=0.04)
    assert shapely.distance(annotation.tumour.boundary, shapely.points(circle(100, 6))).max() < 1e-9


def test_a_spline_is_the_closed_centripetal_catmull_rom_curve(read):
    """Against the recursive definition (Barry and Goldman 1988), to the quarter of a pixel that is promised."""
    rng = np.random.default_rng(0)
    points = circle(1000, 15, centre=5000) + rng.uniform(-150, 150, (15, 2))
    border = read(asap(outline(points, kind="Spline"))).tumour.boundary
    for n in range(15):
        p = [points[(n + k) % 15] for k in range(4)]
        t = np.cumsum([0.0, *(np.linalg.norm(p[k + 1] - p[k]) ** 0.5 for k in range(3))])
        for s in np.linspace(t[1], t[2], 20):
            level = p
            for size in (1, 2, 3):
                spans = [(t[k], t[k + size]) if size < 3 else (t[1], t[2]) for k in range(4 - size)]
                level = [((b - s) * level[k] + (s - a) * level[k + 1]) / (b - a) for k, (a, b) in enumerate(spans)]
            assert border.distance(shapely.Point(level[0])) < 0.26


@needs_real
def test_a_dense_spline_is_its_points_to_a_pixel_at_10x():
    annotation = read_annotation(REAL / "tumor_009.xml", groups=GROUPS)
    assert annotation.tumour.area == pytest.approx(sum(map(shoelace, real_points("tumor_009"))), rel=1e-5)
    lines = shapely.MultiLineString([np.concatenate([p, p[:1]]) for p in real_points("tumor_009")])
    shapely.prepare(lines)
    assert shapely.dwithin(lines, shapely.points(shapely.get_coordinates(annotation.tumour)), 4).mean() > 0.99


def test_an_outline_of_70_000_points(read):
    points = circle(1, 70_000, centre=0)
    angle = np.arctan2(points[:, 1], points[:, 0])
    points = 50_000 + points * (20_000 + 500 * np.sin(900 * angle))[:, None]
    annotation = read(asap(outline(np.round(points, 4))), size=(100_000, 100_000))
    assert annotation.points == 70_000
    assert annotation.tumour.area == pytest.approx(shoelace(points), rel=1e-9)


def test_memory_does_not_grow_with_a_tree_of_the_file(read):
    def peak(count: int) -> int:
        read(asap(*(outline(np.round(circle(100, 300), 3), name=str(n)) for n in range(count))))
        tracemalloc.start()
        read_annotation(read.path, groups=GROUPS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert (peak(60) - peak(20)) / (40 * 300) < 50  # bytes per point; a tree takes some 500


# --- the slide's border ---


def test_outlines_are_cut_at_the_border_of_the_slide(read):
    annotation = read(asap(outline(SQUARE, name="out"), outline(HOLE, group="_2")), size=(40, 25))
    assert annotation.clipped == ("out", "_0")
    assert annotation.tumour.area == 30 * 15 - 10 * 5
    assert annotation.tumour.bounds == (10, 10, 40, 25)
    assert read(asap(outline(SQUARE)), size=(50, 50)).clipped == ()


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (5, 5)])
def test_an_outline_outside_the_slide_is_another_slides(read, size):
    with assert_refused(read.path, "'far'", f"{size[0]} x {size[1]}", "x=10, y=10", "another slide's"):
        read(asap(outline(SQUARE, name="far")), size=size)


# --- bad files ---

BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)


@pytest.mark.parametrize(
    "doctype",
    [
        BILLION_LAUGHS,
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://localhost/x.dtd">',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://localhost/x"> %a;]>',
    ],
)
def test_a_file_that_defines_entities_is_not_safe(read, doctype):
    text = asap(outline(SQUARE, name="&i;" if "ENTITY i" in doctype else "_0"))
    with assert_refused(read.path, "is not safe"):
        read(text.replace("\n", doctype))


def test_broken_xml_is_named_with_its_line(read):
    text = asap(outline(SQUARE)).replace("><", ">\n<")
    line = text[: text.index('Order="2"')].count("\n") + 1
    with assert_refused(read.path, f"broken in line {line}", "get it again"):
        read(text.replace('Order="2"', 'Order="2'))
    with assert_refused(read.path, "broken in line", "get it again"):
        read(text[:-30])


@pytest.mark.parametrize("text", [b"\x89PNG\r\n\x1a\n\0\0", b"not xml", b'<?xml version="1.0" encoding="none"?><a/>'])
def test_a_file_that_is_no_xml_is_refused(read, text):
    with assert_refused(read.path, "get it again"):
        read(text)


def test_an_empty_file_is_refused(read):
    with assert_refused(read.path, "is empty", "get it again"):
        read("")


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "none.xml", tmp_path):
        with assert_refused(path, "check the path"):
            read_annotation(path)


def test_another_kind_of_xml_is_refused(read):
    with assert_refused(read.path, "no ASAP file", "<Annotations>", "<ASAP_Annotations>"):
        read("<Annotations><Annotation/></Annotations>")


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999", "", "10,5", "x"])
@pytest.mark.parametrize("key", ["X", "Y", "Order"])
def test_a_coordinate_that_is_no_finite_number_is_named(read, key, value):
    text = asap(outline([(20, 30), (40, 50), (60, 10)], name="_4")).replace(f'{key}="', f'{key}="{value}" was="', 1)
    with assert_refused(read.path, "'_4'", f"{key}={value!r}", "no finite number"):
        read(text)


def test_a_coordinate_that_lacks_a_number_is_named(read):
    with assert_refused(read.path, "Y=''", "no finite number"):
        read(asap(outline(SQUARE)).replace('Y="50"', ""))


def test_a_name_with_line_breaks_keeps_the_message_to_one_line(read):
    with assert_refused(read.path, "unknown group"):
        read(asap(outline(SQUARE, name="a&#10;b", group="c&#10;d")))


# --- the report ---


def test_nothing_annotated_is_no_tumour(read):
    for annotation in (Annotation.empty(), read(asap())):
        assert annotation == Annotation()
        assert annotation.tumour.is_empty
        assert (annotation.tumour.area, annotation.holes) == (0, 0)
        assert "0 tumour" in annotation.summary


def test_the_summary_is_one_line_that_tells_what_was_met(read):
    annotation = read(
        asap(
            outline(circle(20, 6, centre=60), kind="Spline"),
            outline([(0, 0), (30, 30), (30, 0), (0, 30)]),
            outline([(55, 55), (65, 55), (65, 65), (55, 65)], group="None"),
            outline([(1, 1), (2, 2)]),
            outline([(5, 5)], kind="Dot"),
        ),
        size=(79, 100),
    )
    assert "\n" not in annotation.summary
    for words in (
        "2 tumour and 1 exclusion outlines with 14 points",
        "1 holes",
        "1 smooth",
        "1 touching or crossing themselves",
        "1 in no group",
        "1 without area",
        "1 dots or measurements",
        "1 cut at the slide's border",
    ):
        assert words in annotation.summary
