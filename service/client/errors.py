"""What ends a command of the client.

ClientError
├── FileError        the file cannot be read as rows
├── RefusedError     the server gave a final no
└── PatienceError    no final answer in time
"""

from typing import Any


class ClientError(Exception):
    """The command cannot start or go on; the message is for the user."""

    exit_status = 1


class FileError(ClientError):
    """The file cannot be read as rows; the message names the row where it can."""


class RefusedError(ClientError):
    """The server gave a final no: its status and problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        hint = " (give the key as FRESHET_KEY or with --key-file)" if status == 401 else ""
        super().__init__(f"the server answers {status}: {problem_text(problem)}{hint}")


class PatienceError(ClientError):
    """No final answer within the patience."""

    exit_status = 3


def problem_text(problem: dict[str, Any]) -> str:
    """A problem document in one line: the detail, and each bad field that it does not name."""
    detail = str(problem.get("detail") or problem.get("title") or "no detail")
    fields = [
        f"{error.get('pointer')}: {error.get('detail')}"
        for error in problem.get("errors", [])
        if str(error.get("detail")) not in detail
    ]
    return "; ".join([detail, *fields])
