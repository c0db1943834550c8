"""Segmentation: evaluation, figures and the export of class maps."""
