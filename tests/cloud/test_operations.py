"""The files to run a verifier with: they name metrics that it exports, and options that it takes."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import tyro
import yaml

from cloud.config import ServerConfig
from cloud.engine.base import Checked
from cloud.exporter import Exporter
from cloud.metrics import Metrics
from scripts.serve import Arguments
from tests.support.scripted import ScriptedEngine, fetch, samples

FILES = Path(__file__).resolve().parents[2] / "cloud" / "operations"
SCRAPED = {"up"}
"""What Prometheus itself adds."""
TARGET_LABELS = {"instance", "job"}


def exported() -> dict[str, set[str]]:
    """Labels of each metric that a server which has refused a call exports, by name."""
    engine = ScriptedEngine()
    engine.pid = os.getppid()  # as one of its own process
    metrics = Metrics(engine, max_draft_tokens=4, max_sessions=9)
    metrics.checked(4, Checked(2, 7, (), -0.5, 1.0, 1.0, 1.0, 1, 1))
    metrics.answered("Verify", "NOT_FOUND", 0.1, "SessionLostError")
    exporter = Exporter(metrics.registry, "127.0.0.1", 0, lambda: "serving")
    exporter.start()
    try:
        found = samples(fetch(exporter.port, "/metrics")[1])
    finally:
        exporter.close()
    return {name: {label for label, _ in labels} for name, labels in found} | {name: set() for name in SCRAPED}


EXPORTED = exported()


def wrong(expression: str) -> list[str]:
    """What of an expression names nothing that is exported; all of it when it cannot be read."""
    plain = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
    try:
        return list(_wrong(promql_parser.parse(plain), set()))
    except ValueError as error:
        return [str(error)]


def _wrong(node: Any, by: set[str]) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        if node.name not in EXPORTED:
            yield node.name
            return
        used = by | {matcher.name for matcher in node.matchers.matchers}
        yield from (f"{node.name}{{{label}}}" for label in sorted(used - EXPORTED[node.name] - TARGET_LABELS))
        return
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        by = by | set(node.modifier.labels)
    inner = (getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector"))
    for each in (*inner, *getattr(node, "args", ())):
        if each is not None:
            yield from _wrong(each, by)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


TARGETS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in dashboard()["panels"]
    for target in panel.get("targets", ())
}


@pytest.mark.parametrize("expression", TARGETS.values(), ids=list(TARGETS))
def test_a_panel_names_what_is_exported(expression: str) -> None:
    assert wrong(expression) == []


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_names_what_is_exported_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert wrong(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.fullmatch(r"\d+m", rule.get("for", "1m"))


def test_the_check_itself() -> None:
    assert wrong("sum by (kind) (rate(synera_batch_tokens_total[5m])) / synera_gone > 3") == ["synera_gone"]
    assert wrong('sum by (kind, le) (rate(synera_queue_seconds_bucket{nope="x"}[$__rate_interval]))') == [
        "synera_queue_seconds_bucket{nope}"
    ]
    assert wrong("absent(x) or sum by (who) ((synera_sessions))") == ["x", "synera_sessions{who}"]
    assert wrong("sum(rate(synera_sessions[5m])")


def test_the_dashboard_shows_every_figure_and_takes_any_data_source() -> None:
    found = dashboard()
    said = " ".join(TARGETS.values())
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in EXPORTED if name.startswith("synera_")}
    families = {name for name in families if not name.startswith("synera_engine_process_")}  # which come with the library
    counted = {name for name in families if not name.endswith("_created") and f"{name}_total" not in families}
    assert {name for name in counted if name not in said} == set()
    assert {"type": "datasource", "query": "prometheus"}.items() <= found["templating"]["list"][0].items()
    used = {target["datasource"]["uid"] for panel in found["panels"] for target in panel.get("targets", ())}
    assert used == {"${datasource}"}
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])


def options(words: list[str]) -> Arguments:
    """The command line of a verifier, as `synera serve` reads it."""
    assert words[:2] == ["synera", "serve"]
    return tyro.cli(Arguments, args=words[2:])


def seconds_to_end(arguments: Arguments) -> float:
    """How long a verifier may take to stop."""
    return arguments.drain_seconds + ServerConfig(model=arguments.model).grace_seconds


def test_the_units_command_line_is_one() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(FILES / "synera.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    arguments = options([Path(program).name, *words])
    assert arguments.tls_cert is not None
    assert arguments.tls_key is not None
    assert not arguments.allow_plaintext
    assert arguments.drain_seconds > 0
    assert int(service["TimeoutStopSec"]) > seconds_to_end(arguments)
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"  # of a user's mistake, see scripts/_ending.py
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["DynamicUser"]) == ("yes", "strict", "yes")
    assert int(service["LimitNOFILE"]) >= 65536


def documents() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())}


def test_the_manifests_command_line_is_one_and_its_times_fit() -> None:
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    arguments = options([*container["command"], *container["args"]])
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert (arguments.port, arguments.metrics_port) == (ports["grpc"], ports["metrics"])
    assert arguments.metrics_host == arguments.host == "0.0.0.0"
    assert not arguments.allow_plaintext
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > wait + seconds_to_end(arguments)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    alive = container["livenessProbe"]
    assert alive["periodSeconds"] * (alive["failureThreshold"] - 1) > wait + seconds_to_end(arguments)


def test_the_manifest_gives_clients_an_address_a_verifier_and_verifiers_no_rights() -> None:
    found = documents()
    service, deployment = found["Service"]["spec"], found["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert service["clusterIP"] == "None"
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        service["selector"],
        deployment["selector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    assert service["ports"][0]["targetPort"] in {each["name"] for each in container["ports"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert {"requests", "limits"} == set(container["resources"])
    volumes, mounts = ({each["name"] for each in part} for part in (pod["volumes"], container["volumeMounts"]))
    assert volumes == mounts
