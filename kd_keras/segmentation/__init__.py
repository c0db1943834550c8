"""Mathematics of semantic segmentation that networks, training and evaluation share."""

from kd_keras.segmentation.losses import SegmentationLoss

__all__ = ("SegmentationLoss",)
