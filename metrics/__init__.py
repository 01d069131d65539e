"""Splits and near-duplicates, image and text encoders, scores and reports."""
