"""How much one request may ask for: rows, the numbers that they take on their way, and the numbers of an answer."""

from model import ModelSpec
from service.errors import Invalid, TooLarge
from service.settings import Settings

TOP = 100
"""Classes that an answer tells of, the most likely ones, where telling of all would be long."""
LONG_ANSWER = 100_000  # numbers
LONGEST_ANSWER = 500_000  # numbers; more are refused
CONTAINERS = 2**20  # lists and objects in one JSON body: each takes many times its own length in memory
SHORT_BODY = 2**20  # bytes in which they are not counted


def check_rows(rows: int, spec: ModelSpec, settings: Settings, pointer: str) -> None:
    """Refuse more rows than the settings allow for a model; one is always allowed. Raises Invalid."""
    if rows > settings.max_rows:
        raise Invalid.at(
            pointer, f"{rows} rows; at most {settings.max_rows} in one request (FRESHET_MAX_ROWS)"
        )
    most = max(1, settings.max_cells // spec.cells)
    if rows > most:
        raise Invalid.at(
            pointer,
            f"{rows} rows; at most {most} in one request for this model, where each takes {spec.cells} numbers "
            "(FRESHET_MAX_CELLS); send several requests or a stream",
        )


def columns_of_answer(rows: int, spec: ModelSpec, top: int | None, pointer: str) -> int:
    """Numbers of each prediction in the response: all, or those of the most likely classes. Raises Invalid.

    `top` is how many classes are asked for.
    """
    columns = spec.outputs
    if spec.task == "multiclass" and top is not None:
        columns = min(columns, top)
    elif spec.task == "multiclass" and rows * columns > LONG_ANSWER:
        columns = min(columns, TOP)
    if rows > 1 and rows * columns > LONGEST_ANSWER:
        detail = f"{rows} predictions of {columns} numbers; at most {LONGEST_ANSWER} in one answer"
        raise Invalid.at(pointer, detail)
    return columns


def columns_of_results(rows: int, spec: ModelSpec, top: int | None, pointer: str) -> int:
    """As `columns_of_answer`, for the results of feedback: of many classes the most likely ones unless asked."""
    return columns_of_answer(rows, spec, top if top is not None else TOP, pointer)


def check_containers(raw: bytes) -> None:
    """Refuse a body of very many lists and objects before it is read. Raises TooLarge."""
    if len(raw) > SHORT_BODY and raw.count(b"[") + raw.count(b"{") > CONTAINERS:
        raise TooLarge(
            f"more than {CONTAINERS} lists and objects in one body; send several requests or a stream"
        )
