"""The container files: what can be seen without building them (`make image-check` builds)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from programs import ROOT

DOCKER = ROOT / "docker"


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_is_not_roots_has_two_stages_and_no_healthcheck():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE_IMAGE} AS build", "FROM ${BASE_IMAGE}"]
    users = [line for line in lines if line.startswith("USER")]
    assert len(users) == 1
    assert users[0].split()[1] not in ("root", "0")
    assert not any(line.startswith("HEALTHCHECK") for line in lines)


def test_the_context_holds_what_the_image_copies_and_little_else():
    ignored, *kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == "*"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {name for names in copied for name in names.split()}
    assert {name[1:] for name in kept if name.startswith("!")} == wanted


def test_apptainer_installs_what_the_dockerfile_does():
    dockerfile, definition = (DOCKER / "Dockerfile").read_text(), (DOCKER / "drb.def").read_text()
    pattern = re.compile(r"pip install (.*)")
    assert pattern.findall(definition) == pattern.findall(dockerfile)
    base = re.compile(r"BASE_IMAGE=(\S+:\S+)")
    assert base.findall(definition)[-1] == base.findall(dockerfile)[0]


def test_the_recipe_of_easybuild_is_of_this_version_and_has_its_requirements():
    (recipe,) = DOCKER.glob("*.eb")
    text, project = recipe.read_text(), (ROOT / "pyproject.toml").read_text()
    name, version = (re.search(rf'^{key} = "(.*)"', project, re.MULTILINE)[1] for key in ("name", "version"))
    assert f"name = '{name}'\nversion = '{version}'\n" in text
    assert recipe.name == f"{name}-{version}-foss-2024a.eb"
    found = {
        key.lower(): tuple(map(int, number.split("."))) for key, number in re.findall(r"\('([\w-]+)', '([\d.]+)'", text)
    }
    least = dict(re.findall(r'"([a-z0-9-]+)>=([\d.]+)', project))
    others = {"hydra": "hydra-core", "pytorch": "torch"}
    for module in (
        "pytorch",
        "torchvision",
        "safetensors",
        "hydra",
        "matplotlib",
        "scikit-learn",
        "mpi4py",
        "setuptools",
    ):
        assert found[module] >= tuple(map(int, least[others.get(module, module)].split("."))), module


def test_compose_publishes_on_loopback_only_and_names_its_volumes():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert used == set(compose["volumes"])
    assert not any("privileged" in service or "network_mode" in service for service in compose["services"].values())
