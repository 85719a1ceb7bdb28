"""The entry of images and masks of your own, of which :mod:`~study.data.datasets.image_folder` makes a patch store."""

from study.data.datasets.data_set import DataSet

DATA_SET = DataSet(
    name="folder",
    title="own images",
    about="A folder of images and one of masks, of your own.",
    licence="yours",
    needs="the store that `python -m study data folder` makes of a folder of images and one of masks",
)
