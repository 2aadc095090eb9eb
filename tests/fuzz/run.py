"""Fuzz a target, or all of them one after the other, with atheris.

    uv run --group fuzz python tests/fuzz/run.py [TARGET ...] [--seconds 60]

Each runs in a process of its own, at most 512 MB. An input that raises anything but one of our
errors stops it: it is printed and kept in tests/fuzz/corpus/TARGET, where `pytest tests/fuzz` finds
it again. What is merely new to the fuzzer is kept in a folder that is thrown away.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a program this file is not in a package

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def fuzz(name: str, arguments: list[str]) -> None:
    """In the process of one target."""
    import atheris

    with atheris.instrument_imports(include=["penstock"]):
        from penstock.errors import PenstockError

        function = TARGETS[name]
        with suppress(PenstockError):
            function(b"")  # what it imports is imported here, instrumented

    def one(data: bytes) -> None:
        with suppress(PenstockError):
            function(data)

    atheris.Setup([name, *arguments], one)
    atheris.Fuzz()


def run(name: str, seconds: int) -> bool:
    """Run one target; print how many inputs it was given. False when it failed."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as new:
        done = subprocess.run(
            [sys.executable, __file__, "--in-process", name, "--", new, str(kept),
             f"-max_total_time={seconds}", f"-artifact_prefix={kept}/", "-rss_limit_mb=512",
             "-timeout=60", "-max_len=4096", "-print_final_stats=1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    counted = re.search(r"number_of_executed_units:\s*(\d+)", done.stdout)
    print(f"{name}: {int(counted[1]) if counted else 0:,} inputs, exit status {done.returncode}")
    if done.returncode:
        print(done.stdout[-4000:])
    return done.returncode == 0


def main() -> None:
    if sys.argv[1:2] == ["--in-process"]:
        fuzz(sys.argv[2], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    chosen = parser.parse_args()
    results = [run(name, chosen.seconds) for name in chosen.targets]
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
