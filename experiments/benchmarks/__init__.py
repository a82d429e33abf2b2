"""Ratios, measured in paired runs on one machine."""
