"""The tests' own way to wait for processes."""

from __future__ import annotations

import sys

import pytest
import waiting


def test_a_process_that_hangs_is_given_up_and_one_that_computes_is_not(monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.5)
    with pytest.raises(AssertionError, match="have computed for less than"):
        waiting.run([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '100'])"])
    monkeypatch.setattr(waiting, "LEAST", 0.01)
    monkeypatch.setattr(waiting, "PATIENCE", 2)
    computes = "import time\nwhile time.process_time() < 3: pass\nprint('done')"
    assert waiting.run([sys.executable, "-c", computes]).stdout == "done\n"
