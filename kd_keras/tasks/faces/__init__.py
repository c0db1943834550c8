"""Faces: is it the same person? Verification on people who are in no training image, its report, and exports."""
