import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "sklearn", "scipy", "pandas", "wandb", "matplotlib")


@pytest.mark.parametrize("module", ["files", "folders", "grid", "pack", "quality", "schema", "wandb"])
def test_what_a_row_is_needs_none_of_the_heavy_packages(module):
    code = f"import sys, hies.runs.{module}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
