"""Compiled code is given up when a source that it was made from changes, and kept wherever that is possible."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model import compiled
from model.compiled import imports_of, sources_of

ENTRIES = sorted(path.stem for path in compiled.FOLDER.glob("*.py") if "@compiled(" in path.read_text())


def test_all_kernels_with_an_entry_point_are_known():
    assert {"kernels", "metrics_kernels", "served_kernels"} <= set(ENTRIES)


def test_only_one_module_calls_the_compiler_with_a_cache():
    for path in compiled.FOLDER.glob("*.py"):
        assert "cache=True" not in path.read_text() or path.stem == "compiled"


@pytest.mark.parametrize("path", sorted(compiled.FOLDER.glob("*kernels.py")), ids=lambda path: path.stem)
def test_what_compiled_code_takes_from_other_files_is_part_of_the_key(path):
    assert not compiled.WITHOUT_CODE & set(imports_of(path))


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the package's sources, of which the key is computed."""
    for path in compiled.FOLDER.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    sources_of.cache_clear()
    yield tmp_path
    sources_of.cache_clear()


@pytest.mark.parametrize(
    ("entry", "changed"),
    [
        ("kernels", "kernels"),
        ("kernels", "layer_kernels"),
        ("kernels", "scaling"),
        ("kernels", "compiled"),
        ("metrics_kernels", "metrics"),
        ("served_kernels", "score_kernels"),
    ],
)
def test_the_key_changes_with_every_source(entry, changed, sources):
    before = sources_of(entry)
    with (sources / f"{changed}.py").open("a") as file:
        file.write("CHANGED = 1\n")
    sources_of.cache_clear()
    assert sources_of(entry) != before


def test_the_key_does_not_change_with_comments_and_docstrings(sources):
    before = sources_of("kernels")
    text = (sources / "kernels.py").read_text()
    docstring = '"""The online path'
    assert docstring in text
    (sources / "kernels.py").write_text("# A comment.\n" + text.replace(docstring, '"""Another docstring'))
    sources_of.cache_clear()
    assert sources_of("kernels") == before


def test_the_key_does_not_change_with_other_sources(sources):
    before = [sources_of(entry) for entry in ENTRIES]
    (sources / "labels.py").write_text("")
    (sources / "spec.py").write_text("")
    sources_of.cache_clear()
    assert [sources_of(entry) for entry in ENTRIES] == before


def test_the_key_is_computed_once_for_all_processes(sources, monkeypatch):
    before = [sources_of(entry) for entry in ENTRIES]
    monkeypatch.setattr(compiled, "_source_of", None)
    sources_of.cache_clear()
    assert [sources_of(entry) for entry in ENTRIES] == before


COMPILE = """
import tempfile
from pathlib import Path
from numba import float64, types
import model.compiled as compiled
compiled.FOLDER = Path(__file__).parent
tempfile.tempdir = str(compiled.FOLDER)
def make(sources):
    @compiled.compiled(types.void(float64[::1]))
    def double(values):
        sources
        for i in range(values.shape[0]):
            values[i] *= 2.0
    return double
import numpy
values = numpy.ones(2)
double = make(compiled.sources_of("labels"))
double(values)
print(values[0], sum(double.stats.cache_hits.values()), double.stats.cache_path)
"""


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def obey_modes():
    """Let even root be refused what a file's mode forbids, once the next program runs."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def compile_in(cache, home):
    """Compile a small function in a new process: whether it was loaded, and its folder, None if it was not kept."""
    script = home / "labels.py"
    if not script.exists():
        script.write_text(COMPILE)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "HOME": str(home), "TMPDIR": str(home)}
    environment["PYTHONPATH"] = str(compiled.FOLDER.parent)
    command = [sys.executable, "-B", str(script)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, preexec_fn=obey_modes
    )
    value, hits, path = done.stdout.split()
    assert value == "2.0"
    return int(hits), None if path == "None" else Path(path)


def lock(folder):
    """Let a folder and all in it only be read."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def unlock(folder):
    """Let pytest remove a folder again."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_compiled_code_is_loaded_by_the_next_process(tmp_path):
    assert compile_in(tmp_path / "cache", tmp_path)[0] == 0
    hits, path = compile_in(tmp_path / "cache", tmp_path)
    assert hits == 1
    assert path.parent == tmp_path / "cache"


def test_compiled_code_is_loaded_where_it_can_only_be_read(tmp_path):
    compile_in(tmp_path / "cache", tmp_path)
    lock(tmp_path)
    hits, path = compile_in(tmp_path / "cache", tmp_path)
    unlock(tmp_path)
    assert (hits, path.parent) == (1, tmp_path / "cache")


def test_code_is_kept_elsewhere_if_the_folder_asked_for_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    _, path = compile_in(tmp_path / "cache", tmp_path)
    assert path.parent == tmp_path / "__pycache__"
    assert compile_in(tmp_path / "cache", tmp_path)[0] == 1


def test_functions_are_compiled_where_nothing_can_be_written(tmp_path):
    (tmp_path / "labels.py").write_text(COMPILE)
    lock(tmp_path)
    assert compile_in(tmp_path / "cache", tmp_path) == (0, None)
    unlock(tmp_path)
