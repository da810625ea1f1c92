"""The trainer: knows nothing of screens."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lyctui")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0"
