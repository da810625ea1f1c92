"""Atomic files, exact state, and what a resume may change."""
