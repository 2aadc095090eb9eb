"""What runs Penstock elsewhere fits what there is: commands, ports, routes, settings, metrics."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from penstock.cli.app import app
from penstock.cli.commands import __all__ as commands
from penstock.config import read_settings
from penstock.telemetry import METRICS

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
assert commands


def documents() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in documents() if one["kind"] == kind]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for one in of_kind("Deployment"):
        for container in one["spec"]["template"]["spec"]["containers"]:
            yield one["metadata"]["name"], container


def understood(arguments: list[str]) -> None:
    """The command and its options are there, as the command line itself reads them."""
    command = get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], list(arguments[1:]))


def test_manifests_fit_the_schemas_of_kubernetes() -> None:
    """Strictly: a field that there is not is refused."""
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: no schema was asked"
    )
    found = list(documents())
    assert len(found) == 7
    for one in found:
        validate.validate(one, "1.34", strict=True)
    broken = json.loads(json.dumps(of_kind("Deployment")[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["colour"] = "red"
    with pytest.raises(validate.ValidationError):
        validate.validate(broken, "1.34", strict=True)


def test_manifests_fit_each_other(tmp_path: Path) -> None:
    """Commands, ports, probes, volumes, selectors and the project file."""
    [project] = of_kind("ConfigMap")
    [secrets] = of_kind("Secret")
    file = tmp_path / "penstock.yaml"
    file.write_text(project["data"]["penstock.yaml"], encoding="utf-8")
    settings = read_settings(file, environment=secrets["stringData"])
    assert settings.server.host == "0.0.0.0"
    for name, container in containers():
        understood(container["args"])
        assert container["args"][-1] == "/etc/penstock/penstock.yaml"
        [mounted] = [m for m in container["volumeMounts"] if m["name"] == "project"]
        assert mounted["mountPath"] == "/etc/penstock"
        assert container["envFrom"] == [{"secretRef": {"name": secrets["metadata"]["name"]}}]
        if name == "penstock-worker":
            assert "ports" not in container
            continue
        assert [port["containerPort"] for port in container["ports"]] == [settings.server.port]
        paths = {container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness")}
        assert paths == {"/healthz"}
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    pods = {d["metadata"]["name"]: d["spec"]["template"] for d in of_kind("Deployment")}
    [service] = of_kind("Service")
    wanted = service["spec"]["selector"].items()
    chosen = [name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items()]
    assert chosen == ["penstock-serve"]
    assert service["metadata"]["name"] in settings.server.hosts


def test_nothing_runs_as_root_or_may_become_it() -> None:
    """In pods, in the image, and as a service."""
    for deployment in of_kind("Deployment"):
        assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    for _, container in containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
    image = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert "\nUSER 10001:10001\n" in image
    service = unit()["Service"]
    assert (service["User"], service["NoNewPrivileges"]) == ("penstock", "yes")


def test_the_image_starts_what_there_is() -> None:
    """Its command, its port and its extras."""
    image = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    [command] = re.findall(r"^CMD (\[.*\])$", image, re.MULTILINE)
    understood(json.loads(command))
    assert re.findall(r"^EXPOSE (\d+)$", image, re.MULTILINE) == ["8321"]
    pyproject = (DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8")
    [extras] = re.findall(r'"/src\[(.*)\]"', image)
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(DEPLOY / "systemd" / "penstock.service", encoding="utf-8")
    return found


def test_the_service_starts_what_there_is(tmp_path: Path) -> None:
    """And systemd itself finds nothing wrong, where it is installed."""
    service = unit()["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/penstock")
    understood(arguments)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: the unit was compared with our commands alone")
    text = (DEPLOY / "systemd" / "penstock.service").read_text(encoding="utf-8")
    file = tmp_path / "penstock.service"
    file.write_text(text.replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False
    )
    about = [line for line in done.stderr.splitlines() if "penstock.service" in line]
    assert not about, done.stderr


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    """No other, and those that tell whether data flows."""
    dashboard = json.loads((DEPLOY / "grafana" / "penstock.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"penstock_\w+", target["expr"])
    }
    assert asked <= set(METRICS)
    assert {"penstock_freshness_seconds", "penstock_pipeline_lag_records"} < asked
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_commands_are_read_as_the_program_reads_them() -> None:
    """The check is able to fail."""
    with pytest.raises(KeyError):
        understood(["serf"])
    with pytest.raises(Exception, match="--quite"):
        understood(["serve", "--quite"])
