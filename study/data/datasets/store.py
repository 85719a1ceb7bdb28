"""A patch store of your own, of any data: ``--data`` names it."""

from study.data.datasets.data_set import DataSet

DATA_SET = DataSet(
    name="store",
    title="a patch store",
    about="Any patch store: a .h5 file, or the folder of an extraction.",
    licence="that of its images",
)
