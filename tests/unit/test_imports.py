"""Who may import whom: the contracts hold, and each of them is able to fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]

BREACHES = {
    "kernel": ("records.py", "import penstock.config"),
    "debezium": ("debezium/types.py", "import penstock.stores.base"),
    "clients": ("clients/search.py", "import penstock.project"),
    "identity": ("identity/graph.py", "import penstock.stores.base"),
    "database": ("database/connect.py", "import penstock.log.base"),
    "stages": ("log/embedded.py", "import penstock.stores.base"),
    "adapters": ("sources/postgres/decoder.py", "import penstock.sources.files"),
    "stores": ("stores/opensearch.py", "import penstock.stores.postgres.store"),
    "pipelines": ("pipelines/tables.py", "import penstock.log.base"),
    "serving": ("serving/context.py", "import penstock.pipelines.base"),
    "runtimes": ("runtimes/ingest.py", "import penstock.log.embedded"),
    "shipped": ("project.py", "import penstock.demo"),
}


def lint(source: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run import-linter over a copy of the package."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program]
    command += ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    if contract is not None:
        command += ["--contract", contract]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=source, check=False
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, copied, without weights of models and compiled files."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "src" / "penstock",
        folder / "penstock",
        ignore=shutil.ignore_patterns("__pycache__", "*.onnx", "*.md", "*.sql"),
    )
    return folder


def test_all_contracts_hold(copied: Path) -> None:
    """The package as it is breaks no contract."""
    done = lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("contract", [contract["id"] for contract in CONTRACTS])
def test_each_contract_can_fail(contract: str, copied: Path) -> None:
    """One forbidden import breaks exactly the contract that forbids it."""
    name, line = BREACHES[contract]
    file = copied / "penstock" / name
    before = file.read_text(encoding="utf-8")
    file.write_text(f"{before}\n{line}\n", encoding="utf-8")
    try:
        done = lint(copied, contract)
    finally:
        file.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
