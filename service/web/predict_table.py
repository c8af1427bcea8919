"""Predictions of a table: an Arrow IPC stream in, another one out."""

import numpy as np
from flask import Response

from service.errors import Invalid
from service.web import arrow
from service.web.bounds import check_rows
from service.web.context import Web, raw_body
from service.web.feedback.tables import features_of
from service.web.replicas.replica import ServedModel
from service.web.slicing import predict_rows
from service.web.streaming import lines_at_once


def predict_table(context: Web, served: ServedModel) -> Response:
    """Predict each row of the body. Nothing is answered if one of them cannot be read."""
    arrow.load()
    settings = context.settings.model_copy(update={"max_rows": context.settings.max_cells})
    longest, at_once = settings.max_body_bytes, lines_at_once(served.spec)
    parts = [np.empty((0, served.spec.width))]
    count = 0
    for rows in arrow.read_rows([raw_body()], served.spec, longest, at_once, labelled=False):
        if rows.ids is not None:
            raise Invalid.at("/id", "a table is predicted without ids; send lines or JSON")
        count += len(rows)
        check_rows(count, served.spec, settings, "")
        bad: dict[int, str] = {}
        parts.append(features_of(rows, served, bad))
        if bad:
            row, detail = min(bad.items())
            raise Invalid.at(f"/{rows.number + row - 1}", detail)
    if not count:
        raise Invalid.at("", "the table has no rows")
    version = served.version
    made = predict_rows(version, np.concatenate(parts))
    raw = arrow.written(served.spec, _labels(served, made), made, version.step)
    return Response(raw, headers={"Freshet-Step": str(version.step)}, mimetype=arrow.MEDIA_TYPE)


def _labels(served: ServedModel, made: np.ndarray) -> list[bool | int | str] | None:
    """The most likely class of each row; None for a regression."""
    classes = served.spec.classes
    if not classes:
        return None
    if made.shape[1] > 1:
        return [classes[index] for index in made.argmax(axis=1).tolist()]
    border = 0.5 if served.spec.output == "sigmoid" else 0.0
    return [classes[int(number > border)] for number in made[:, 0].tolist()]
