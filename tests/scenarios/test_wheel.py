"""The wheel is whole: installed elsewhere, it serves in a folder that holds nothing of the checkout."""

import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

from tests.harness import Server, clean_environment

ROOT = Path(__file__).parents[2]
SPEC = {"task": "binary", "features": 2}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment into which the wheel was installed, beside our dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True)
    [packages] = (folder / "venv" / "lib").glob("python3*/site-packages")
    link_dependencies(packages)
    return python.parent


def link_dependencies(packages: Path) -> None:
    """Make the pinned dependencies available, and nothing that only the development requirements have."""
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for name in pinned:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            if not (packages / top).exists() and top != "__pycache__":
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


class InstalledServer(Server):
    """`freshet serve` of the installed wheel."""

    executables: Path

    def spawn(self, **variables: str) -> None:
        arguments = [self.executables / "freshet", "serve", "--port", str(self.port)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.folder, env=self.environment | variables, stdout=log, stderr=log
            )


def test_the_installed_wheel_serves_in_another_folder(installed: Path, tmp_path: Path) -> None:
    server = InstalledServer(tmp_path, web_workers=1)
    server.executables = installed
    try:
        server.start()
        assert server.api("PUT", "/v1/models/m", SPEC).status == 201
        answer = server.api("POST", "/v1/models/m/predict", {"instances": [[1, 2]]})
        assert answer.body["predictions"][0]["label"] in (0, 1)
        assert str(ROOT) not in server.log()
    finally:
        server.api.close()
        assert server.stop() == 0


def test_both_packages_are_typed_and_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import model, service; print(model.__file__); print(service.__file__)"
    done = subprocess.run(
        [installed / "python", "-c", code],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    for file in done.stdout.split():
        assert Path(file).is_relative_to(installed.parent)
        assert (Path(file).parent / "py.typed").exists()
