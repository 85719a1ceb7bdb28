"""Reading QuPath's GeoJSON: the same geometry as from ASAP, holes and parts, and what is refused."""

import json

import numpy as np
import pytest
import shapely
from data_helpers import assert_refused
from mask_helpers import FakeView, brute_force, whole
from slide_helpers import asap, square

from study.data.slides.annotations import GROUPS, read_annotation
from study.data.slides.files import has_tumour
from study.data.slides.masks import OutlineMask

OUTER, HOLE, FAR = square(10, 50), square(20, 30), square(60, 80)


def closed(points):
    return [*map(list, points), list(points[0])]


def feature(*rings, kind="Polygon", label="Tumor", coordinates=None, **properties):
    """A feature as QuPath 0.5 exports it."""
    coordinates = [closed(ring) for ring in rings] if coordinates is None else coordinates
    classified = {} if label is None else {"classification": {"name": label, "color": [200, 0, 0]}}
    return {
        "type": "Feature",
        "id": "1f3e",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", **classified, **properties},
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def read(tmp_path):
    """Write an object or a text to a file and read that; ``read.path`` is its name."""

    def read(content, **options):
        read.path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_annotation(read.path, **options)

    read.path = tmp_path / "mine.geojson"
    return read


# --- geometry ---


def test_a_polygon_with_a_hole_is_tumour_with_a_hole(read):
    annotation = read(collection(feature(OUTER, HOLE)))
    expected = shapely.Polygon(OUTER, [HOLE])
    assert annotation.tumour.equals(expected)
    assert (annotation.outlines, annotation.exclusions, annotation.holes, annotation.points) == (1, 0, 1, 8)
    assert annotation.notes == ""


def test_all_parts_of_a_multipolygon_count(read):
    parts = [[closed(OUTER), closed(HOLE)], [closed(FAR)]]
    annotation = read(collection(feature(kind="MultiPolygon", coordinates=parts)))
    assert annotation.tumour.area == 1600 - 100 + 400
    assert annotation.outlines == 1


@pytest.mark.parametrize("wrap", [collection, lambda f: [f], lambda f: f], ids=["collection", "list", "one"])
def test_every_export_of_the_viewer_is_read(read, wrap):
    assert read(wrap(feature(OUTER))).tumour.area == 1600


def test_a_viewer_s_outlines_are_the_same_as_the_other_s(read, tmp_path):
    """As geometry, and as a mask at a scale where borders pass through pixels, by a brute force too."""
    rng = np.random.default_rng(0)
    outlines = [rng.uniform(0, 300, (8, 2)) for _ in range(5)]
    (tmp_path / "mine.xml").write_text(asap(outlines))
    theirs = read_annotation(tmp_path / "mine.xml")
    ours = read(collection(*(feature(outline) for outline in outlines)))
    assert ours.tumour.equals(theirs.tumour)
    assert (ours.outlines, ours.points, len(ours.repaired)) == (theirs.outlines, theirs.points, len(theirs.repaired))
    view = FakeView(300, 300, 3.7)
    masks = [whole(OutlineMask(annotation, view, partial=False)) for annotation in (ours, theirs)]
    np.testing.assert_array_equal(*masks)
    np.testing.assert_array_equal(masks[0], brute_force(ours, view, 0, 0, view.width, view.height))


def test_the_ring_may_be_open_and_points_may_name_a_plane(read):
    points = [[x, y, 0] for x, y in OUTER]
    assert read(collection(feature(coordinates=[points]))).tumour.area == 1600


@pytest.mark.parametrize("ring", [[], [(1, 1)], [(1, 1), (5, 5)], [(1, 1), (5, 5), (9, 9)]])
def test_a_polygon_without_area_is_left_out_and_reported(read, ring):
    thin = feature(coordinates=[closed(ring) if ring else []], name="thin")
    annotation = read(collection(feature(OUTER), thin, feature(kind="Polygon", coordinates=[], name="none")))
    assert annotation.two_point == ("thin", "none")
    assert annotation.tumour.area == 1600


def test_polygons_are_cut_at_the_border_and_refused_beyond_it(read):
    assert read(collection(feature(OUTER, name="a")), size=(40, 25)).clipped == ("a",)
    with assert_refused(read.path, "'far'", "40 x 25", "another slide's"):
        read(collection(feature(FAR, name="far")), size=(40, 25))


# --- classes ---


def test_classes_are_tumour_cut_out_of_it_or_without_meaning(read):
    groups = {**GROUPS, "Tumor: Positive": "tumour", "Stroma": "excluded"}
    frame = feature(square(0, 99), label="Region*", name="frame")
    both = {"classification": {"names": ["Tumor", "Positive"]}}
    inside = (feature(HOLE, label="Stroma"), feature(square(12, 14), label="Ignore*"))
    annotation = read(collection(feature(OUTER), feature(FAR, label=None, **both), *inside, frame), groups=groups)
    assert annotation.tumour.area == 1600 + 400 - 100 - 4
    assert annotation.excluded.area == 104
    assert annotation.unused == ("frame",)
    assert "1 of groups without meaning here" in annotation.notes


@pytest.mark.parametrize(("label", "named"), [("Stroma", "'Stroma'"), (None, "'None'"), ("Tu\nmor", r"'Tu\nmor'")])
def test_a_class_that_nobody_explained_is_refused_with_the_option(read, label, named):
    with assert_refused(read.path, "'number 1'", f"unknown group {named}", "Tumor", "--group NAME=KIND"):
        read(collection(feature(OUTER), feature(HOLE, label=label)))
    groups = {**GROUPS, label or "None": "excluded"}
    assert read(collection(feature(OUTER), feature(HOLE, label=label)), groups=groups).tumour.area == 1500


@pytest.mark.parametrize("kind", ["Point", "MultiPoint", "LineString"])
def test_points_and_lines_are_left_out_and_reported(read, kind):
    annotation = read(collection(feature(OUTER), feature(kind=kind, coordinates=[1, 2], name="mark")))
    assert (annotation.other, annotation.tumour.area) == (("mark",), 1600)


@pytest.mark.parametrize("kind", ["detection", "cell", "tile"])
def test_what_was_detected_and_not_drawn_is_left_out(read, kind):
    annotation = read(collection(feature(OUTER), feature(FAR, label="Anything", objectType=kind)))
    assert (len(annotation.other), annotation.tumour.area) == (1, 1600)


# --- bad files ---


@pytest.mark.parametrize("text", ['{"type": "Feat', "not JSON", '{"type": "FeatureCollection",\n"features": [}'])
def test_broken_json_is_named_with_its_line(read, text):
    with assert_refused(read.path, f"broken in line {1 + text.count(chr(10))}", "export it again"):
        read(text)


@pytest.mark.parametrize("content", [{}, "3", '"Feature"', [1], {"type": "FeatureCollection"}, {"type": "Topology"}])
def test_what_is_no_collection_of_features_is_refused(read, content):
    with assert_refused(read.path, "no GeoJSON of features"):
        read(content)


def test_an_empty_file_and_bytes_that_are_no_text_are_refused(read):
    with assert_refused(read.path, "is empty", "get it again"):
        read("")
    read.path.write_bytes(b"\xff\xfe\x00\x01")
    with assert_refused(read.path, "export it again"):
        read_annotation(read.path)
    with assert_refused("none.geojson", "check the path"):
        read_annotation(read.path.with_name("none.geojson"))
    read.path.with_suffix(".csv").write_text("x,y")
    with assert_refused("mine.csv", ".xml, .geojson"):
        read_annotation(read.path.with_suffix(".csv"))


@pytest.mark.parametrize("kind", [None, "Circle", "GeometryCollection"])
def test_an_unknown_geometry_is_refused(read, kind):
    with assert_refused(read.path, "'odd'", f"unknown type {kind!r}"):
        read(collection(feature(OUTER, kind=kind, name="odd")))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1e9", "9" * 400, "null", '"x"', "[1]", "{}"])
def test_a_coordinate_that_is_no_number_on_a_slide_is_named(read, value):
    text = json.dumps(collection(feature(OUTER, name="odd"))).replace("50", value, 1)
    with assert_refused(read.path, "'odd'", "no finite number"):
        read(text)


@pytest.mark.parametrize("coordinates", [None, 3, [3], [[3]], [[[3]]], {"a": 1}])
def test_coordinates_of_another_shape_are_named(read, coordinates):
    with assert_refused(read.path, "'odd'", "coordinate"):
        read(collection({**feature(OUTER, name="odd"), "geometry": {"type": "Polygon", "coordinates": coordinates}}))


# --- no tumour ---


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ('{"type": "FeatureCollection", "features": []}', True),
        ("[]", True),
        ("", False),
        ("garbage", False),
        (json.dumps(collection(feature(OUTER))), False),
    ],
)
def test_a_file_without_features_says_that_there_is_no_tumour(tmp_path, text, empty):
    path = tmp_path / "mine.geojson"
    path.write_text(text)
    assert has_tumour(path, GROUPS) != empty
    if empty:
        assert read_annotation(path).tumour.is_empty
