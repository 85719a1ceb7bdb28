"""The entry of slides of your own, each with an annotation of ASAP or QuPath beside it."""

from study.data.datasets.data_set import DataSet, SlideSet


def slides() -> SlideSet:
    from study.data.extraction.sampling import SlideKind
    from study.data.slides.annotations import GROUPS
    from study.data.slides.files import find_slides

    # of a slide that cannot be used yet, nobody knows whether it has tumour
    return SlideSet(find_slides, lambda name: SlideKind(name, tumour=True), GROUPS, lambda folder, slides: False)


DATA_SET = DataSet(
    name="slides",
    title="own slides",
    about="Your own slides, with annotations of ASAP (XML) or QuPath (GeoJSON).",
    licence="yours",
    slides=slides,
)
