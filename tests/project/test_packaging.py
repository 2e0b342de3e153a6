"""What is built is what stands in the tree, and the root folders are importable under one name only."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("cloud", "edge", "quantize", "reliability", "router")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built as an index would: from the sdist, which is built from the tree."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return found


def source_files() -> set[str]:
    """Every module and shipped data file, by its place in the wheel."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = set()
    for name in filter(None, tracked.stdout.split("\0")):
        top, _, rest = name.partition("/")
        if top in MAPPED and rest:
            names.add(f"foreshore/{top}/{rest}")
        elif name.startswith("src/foreshore/") and not (ROOT / name).is_symlink():
            names.add(name.removeprefix("src/"))
    return names


def test_the_wheel_holds_the_tree(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert inside == source_files()


def test_the_starters_fit_into_45_megabytes(wheel: Path) -> None:
    sizes = [i.file_size for i in zipfile.ZipFile(wheel).infolist() if "/starter-" in i.filename]
    assert 0 < sum(sizes) <= 45e6


@pytest.mark.parametrize("folder", MAPPED)
def test_a_bare_import_is_refused(folder: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import foreshore.{folder}, not {folder}" in done.stderr


@pytest.mark.parametrize("folder", MAPPED)
def test_the_links_for_type_checkers_are_relative(folder: str) -> None:
    link = ROOT / "src" / "foreshore" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{folder}"


def test_every_folder_with_code_is_a_listed_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    homes = {Path(settings["package-dir"][package]) for package in settings["packages"]}
    found = {Path(name).parent for name in _tracked("*.py")}
    inside = {f for f in found if f.parts[0] in MAPPED or f.parts[:2] == ("src", "foreshore")}
    assert inside == homes


def test_the_base_install_needs_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = ("torch", "transformers", "onnx", "ray")
    assert not [d for d in project["dependencies"] if d.startswith(heavy)]
    extras = {"onnx", "onnx-export", "convert", "language", "privacy", "signing", "redis", "ray", "otel", "dev"}
    assert set(project["optional-dependencies"]) == extras


def test_importing_the_base_imports_no_torch() -> None:
    parts = ", ".join(f"foreshore.{part}" for part in MAPPED)
    code = f"import {parts}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for ds in project["optional-dependencies"].values() for d in ds)]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    names = {_normal(d) for d in wanted} - {"foreshore"}
    assert names <= pinned


def test_no_committed_line_names_a_package_index() -> None:
    hosts = ["pypi" + ".org", "python" + "hosted", "npm" + "js", "deb.deb" + "ian"]
    for name in _tracked("*"):
        path = ROOT / name
        if path.is_symlink() or path.suffix in {".safetensors", ".png"}:
            continue
        text = path.read_text(errors="replace")
        assert not [host for host in hosts if host in text], name


def _tracked(pattern: str) -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


def _normal(requirement: str) -> str:
    for mark in "<>=!~[; ":
        requirement = requirement.partition(mark)[0]
    return requirement.lower().replace("_", "-").replace(".", "-")
