"""What the wizard's arithmetic line imports stays free of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

FREE = ("survey", "placing", "order", "balance", "captions", "names")


@pytest.mark.parametrize("module", FREE)
def test_torch_stays_out(module: str) -> None:
    code = (
        f"import sys, engine.data.{module}; "
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
