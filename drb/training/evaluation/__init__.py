"""Evaluation on the tasks so far, and the metrics that are made of it."""
