"""The tables of faces and segmentation have columns that an evaluation finds: a wrong name fails after hours."""

import pytest

from kd_keras.tasks.faces import Faces
from kd_keras.tasks.segmentation import Segmentation
from scripts.reproduce.camvid_segmentation import CAMVID
from scripts.reproduce.orl_faces import ORL_FACES


@pytest.mark.parametrize(
    "comparison, task", [(ORL_FACES, Faces), (CAMVID, Segmentation)], ids=["faces", "segmentation"]
)
def test_the_columns_are_findings_of_the_task(comparison, task):
    columns = {column.removesuffix("_low").removesuffix("_high") for column in comparison.columns}
    assert columns <= {*task.columns, *task.optional_columns}
