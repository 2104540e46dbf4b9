"""Measures of continual learning; pure functions of numbers that others computed."""
