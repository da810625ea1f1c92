"""The trainer: knows nothing of screens, and of networks only what was switched on."""

from engine.offline import stay_offline

# Before anything of it can import a library that would ask a network.
stay_offline()


def program_version() -> str:
    """Version of this program; empty in a source tree that was not installed."""
    # Imported when it is asked for: it takes longer than all else that `lyctui --help` needs of us.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lyctui")
    except PackageNotFoundError:
        return ""
