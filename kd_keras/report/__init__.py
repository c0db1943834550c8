"""One HTML page that says whether a student may replace its teacher, and why."""

from kd_keras.report.page import Attention, Disagreement, Subject, render_page

__all__ = ("Attention", "Disagreement", "Subject", "render_page")
