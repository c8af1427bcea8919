"""Print the lowest version of each dependency that pyproject.toml allows, for `make test-lowest`."""

import re
import tomllib
from pathlib import Path

FLOOR = re.compile(r"(?P<name>[\w.-]+)(?P<extras>\[[\w,]+\])?>=(?P<version>[\w.]+)(?P<rest>,.*)?")


def floors(pyproject: Path) -> list[str]:
    """Requirements such as `redis==7.0`."""
    found = []
    for requirement in tomllib.loads(pyproject.read_text())["project"]["dependencies"]:
        match = FLOOR.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"{requirement} has no floor")
        found.append(f"{match['name']}=={match['version']}")
    return found


if __name__ == "__main__":
    print("\n".join(floors(Path(__file__).parents[1] / "pyproject.toml")))
