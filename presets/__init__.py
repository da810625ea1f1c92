"""Data only: presets, guide texts, the demo. This module tells where they are."""

from pathlib import Path

PRESETS_PATH = Path(__file__).resolve().parent
"""Partial recipes, `*.toml`, each with an [about]."""
GUIDES_PATH = PRESETS_PATH / "guides"
"""Explanations, one file for each section, a heading for each setting."""
DEMO_PATH = PRESETS_PATH / "demo"
"""The embedded base model and the pictures of the concept that it does not know."""
