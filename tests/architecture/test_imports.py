"""What is imported when: light modules stay light, in processes of their own."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "pytorch_optimizer"}
SCREENS = {"textual", "rich", "typer"}

WITHOUT_TORCH = [
    "engine.errors",
    "engine.draws",
    "engine.events",
    "engine.snapshot",
    "engine.control",
    "engine.settings",
    "engine.settings.check",
    "engine.settings.toml",
    "engine.settings.walk",
    "engine.hardware",
    "engine.loggers",
    "engine.runs",
    "engine.prompts",
    "engine.plan",
    "engine.session",
    "engine.data.folders",
    "engine.data.images",
    "engine.data.captions",
    "engine.data.buckets",
    "engine.data.order",
    "engine.data.survey",
    "engine.models.detect",
    "engine.models.shapes",
    "engine.networks.shapes",
    "lyctui.cli.program",
    "lyctui.app",
    "lyctui.monitor",
    "lyctui.plain_monitor",
    "lyctui.draft",
    "lyctui.fields",
    "lyctui.doctor",
    "lyctui.presets",
    "lyctui.guides",
]


def imported_by(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh process after `code`."""
    tail = "\nimport json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_light_modules_import_no_torch(module):
    found = imported_by(f"import {module}")

    assert not found & HEAVY
    if module.startswith("engine."):
        assert not found & (SCREENS | {"lyctui"})


EVERY_MODULE = """
import importlib, pkgutil, sys
package = importlib.import_module("{package}")
for item in pkgutil.iter_modules(package.__path__, "{package}."):
    importlib.import_module(item.name)
    assert "torch" not in sys.modules, item.name
"""


@pytest.mark.parametrize(
    "package",
    ["engine.kohya", "engine.planning", "engine.settings", "lyctui.screens", "lyctui.widgets"],
)
def test_no_module_of_a_light_package_imports_torch(package):
    found = imported_by(EVERY_MODULE.format(package=package))

    assert not found & HEAVY
    if package.startswith("engine."):
        assert not found & (SCREENS | {"lyctui"})


CALL = """
import sys
from lyctui.cli import main
sys.argv = ["lyctui", *{arguments}]
try:
    main()
except SystemExit:
    pass
"""


def test_version_needs_nothing():
    # 0.25 s on 2 cores: pydantic alone would take most of it.
    found = imported_by(CALL.format(arguments=["--version"]))

    assert not found & (HEAVY | {"textual", "rich", "pydantic", "numpy", "PIL", "tomlkit"})


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["new", "--help"]])
def test_help_needs_no_settings_and_no_screens(arguments):
    # 0.5 s on 2 cores; typer draws its help with rich, and reads flags with pydantic where it is.
    found = imported_by(CALL.format(arguments=arguments))

    assert not found & (HEAVY | {"textual", "numpy", "PIL", "tomlkit", "psutil"})


@pytest.mark.parametrize("arguments", [["runs"], ["paths"], ["stop", "none"], ["presets"]])
def test_verbs_that_only_look_need_no_torch_and_no_screens(arguments):
    found = imported_by(CALL.format(arguments=arguments))

    assert not found & (HEAVY | {"textual"})
