"""The cache of compiled code is given up when a source that it was made from changes."""

import ast
from pathlib import Path

import pytest

from model import compiled

FOLDER = Path(compiled.__file__).parent
KERNELS = sorted(path for path in FOLDER.glob("*kernels.py") if path.stem not in compiled.UNUSED)


def modules_used_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "model":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("model."):
            yield node.module.removeprefix("model.")


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_what_compiled_code_takes_from_other_files_is_part_of_the_key(path):
    assert not compiled.UNUSED & set(modules_used_by(path))


def test_the_key_changes_with_a_source(tmp_path, monkeypatch):
    for path in FOLDER.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert compiled._number_of_sources() == compiled.SOURCES
    (tmp_path / "labels.py").write_text("")
    assert compiled._number_of_sources() == compiled.SOURCES
    (tmp_path / "scaling.py").write_text("DEVIATIONS = 5.0")
    assert compiled._number_of_sources() != compiled.SOURCES
