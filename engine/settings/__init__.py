"""Every setting, declared once."""

from engine.settings.recipe import Recipe

__all__ = ["Recipe"]
