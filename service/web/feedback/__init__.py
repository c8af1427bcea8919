"""Feedback: observations checked, appended and answered."""
