"""Hostile and damaged weight files of every format; `make soak` reads 100,000 of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

INPUTS = int(os.environ.get("VGGNET_FUZZ", "800"))
CHECKED = ("keras-zip", "matlab-packed")
"""Have a check sum over all that is in them: hardly a change goes unnoticed."""


@pytest.mark.soak
def test_mutated_files_are_read_or_refused(
    record_property: Callable[[str, object], None],
) -> None:
    script = Path(__file__).parent / "fuzzing.py"
    command = [sys.executable, str(script), "--count", str(INPUTS)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout, run.stderr
    found = json.loads(run.stdout)
    for kind, counts in found.items():
        assert counts["failures"] == {}, kind
        # Neither is everything refused nor anything at all taken.
        assert counts["refused"] > 0, kind
        assert counts.get("read", 0) > 0 or kind in CHECKED, kind
        record_property(kind, json.dumps(counts))
