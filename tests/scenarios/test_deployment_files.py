"""The files of deploy/ are well-formed, harden what they start, and agree with the code."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.host.embedded import command
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
OURS = ("web", "learner", "trainer")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def manifests() -> list[dict[str, Any]]:
    files = (DEPLOY / "kubernetes").glob("*.yaml")
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def test_the_linters_find_nothing() -> None:
    for arguments in (["hadolint", "deploy/Dockerfile"], ["yamllint", "--strict", "deploy"]):
        done = subprocess.run([BIN / arguments[0], *arguments[1:]], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    "file", sorted((DEPLOY / "kubernetes").glob("[!k]*.yaml")), ids=lambda file: file.name
)
def test_kubernetes_manifests_fit_their_schemas(file: Path) -> None:
    done = subprocess.run([BIN / "kubernetes-validate", "--strict", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_kustomization_names_every_manifest() -> None:
    found = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    files = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(found["resources"]) == files


def test_no_container_runs_as_root_or_writes_its_root() -> None:
    pods = [found for found in manifests() if found["kind"] in ("Deployment", "StatefulSet")]
    assert len(pods) == 4
    for pod in pods:
        spec = pod["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"]
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["livenessProbe"]
    for name, service in compose()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name


def test_ports_are_published_to_this_machine_alone_unless_told() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("${FRESHET_ADDRESS:-127.0.0.1}:"), name
    assert "ports" not in compose()["services"]["web"]  # it is scaled behind the proxy


def test_valkey_runs_with_the_flags_of_the_embedded_server() -> None:
    ours = command(Settings())
    flags = {flag: ours[ours.index(f"--{flag}") + 1] for flag in ("appendonly", "save", "maxmemory-policy")}
    flags["client-output-buffer-limit"] = ours[ours.index("--client-output-buffer-limit") + 1]
    composed = [line.split(" ", 1) for line in compose()["services"]["valkey"]["command"][1:]]
    assert {f"--{flag}": value or '""' for flag, value in flags.items()}.items() <= dict(composed).items()
    [pod] = [found for found in manifests() if found["kind"] == "StatefulSet"]
    arguments = pod["spec"]["template"]["spec"]["containers"][0]["args"][1:]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert {f"--{flag}": value for flag, value in flags.items()}.items() <= given.items()


def test_valkey_is_of_the_version_that_the_tests_run() -> None:
    version = subprocess.run([command(Settings())[0], "--version"], capture_output=True, text=True).stdout
    tested = re.search(r"v=(\d+\.\d+)", version)
    assert tested is not None
    image = f"valkey/valkey:{tested[1]}"
    assert compose()["services"]["valkey"]["image"] == image
    assert image in (DEPLOY / "kubernetes" / "valkey.yaml").read_text()


def test_variables_in_the_files_are_settings() -> None:
    known = {f"FRESHET_{name.upper()}" for name in Settings.model_fields} | {"REDIS_URL"}
    given: set[str] = set()
    for name in OURS:
        given |= compose()["services"][name]["environment"].keys()
    for found in manifests():
        if found["kind"] == "Deployment":
            [container] = found["spec"]["template"]["spec"]["containers"]
            given |= {variable["name"].removesuffix("_FILE") for variable in container["env"]}
    assert len(given) > 4
    assert given <= known
