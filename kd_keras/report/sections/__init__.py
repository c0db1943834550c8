"""The parts of the report. Each takes the networks, the teacher first where there is one and the one to be judged last,
and the classes' names; it gives a `Section`, or `None` where the findings hold nothing for it."""

from kd_keras.report.sections.base import Network, Section
from kd_keras.report.sections.gallery import Attention, Disagreement, different, looked_at
from kd_keras.report.sections.predictions import by_class, confusion, training
from kd_keras.report.sections.trade import figures, headlines, rows, verdict
from kd_keras.report.sections.trust import calibration, generalization, robustness, similarity

__all__ = (
    "Attention",
    "Disagreement",
    "Network",
    "Section",
    "by_class",
    "calibration",
    "confusion",
    "different",
    "figures",
    "generalization",
    "headlines",
    "looked_at",
    "robustness",
    "rows",
    "similarity",
    "training",
    "verdict",
)
