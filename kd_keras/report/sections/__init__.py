"""The sections of the report.

Each function takes the networks, the teacher first and the judged one last, and the names of the classes. It returns a
`Section`, or `None` if the findings contain nothing for it.
"""

from kd_keras.report.sections.base import Network, Section
from kd_keras.report.sections.gallery import Attention, Disagreement, show_attention, show_disagreements
from kd_keras.report.sections.predictions import show_classes, show_confusion, show_training
from kd_keras.report.sections.quantization import show_quantization
from kd_keras.report.sections.trade_off import (
    ACCURACY,
    Metric,
    describe_requirement,
    headlines,
    table_rows,
    trade_off_figures,
)
from kd_keras.report.sections.trust import show_calibration, show_generalization, show_robustness, show_similarity

__all__ = (
    "ACCURACY",
    "Attention",
    "Disagreement",
    "Metric",
    "Network",
    "Section",
    "describe_requirement",
    "headlines",
    "show_attention",
    "show_calibration",
    "show_classes",
    "show_confusion",
    "show_disagreements",
    "show_generalization",
    "show_quantization",
    "show_robustness",
    "show_similarity",
    "show_training",
    "table_rows",
    "trade_off_figures",
)
