"""What docs/transcript.md shows is what happens."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(240)
@pytest.mark.skipif(
    find_spec("langchain_openai") is None,
    reason="LangChain (uv sync --group large) is not installed: the transcript was not verified",
)
def test_what_a_new_user_tries_goes_as_the_transcript_shows() -> None:
    """curl, the clients of OpenAI and MCP, and a chain of LangChain, against a running server."""
    tool = ROOT / "tools" / "transcript.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
