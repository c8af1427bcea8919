"""What a user says of drift."""

from typing import Literal

from model.strict import StrictModel

Action = Literal["rehearsal", "reset", "retrain", "none"]


class DriftSpec(StrictModel):
    """Whether drift is looked for, and what is done when the loss rises.

    rehearsal: the window of rows to rehearse is emptied. reset: all members start anew from their first weights, too.
    retrain: the window is emptied, and the event says that a retraining is due: whoever runs the model starts it.
    none: nothing but an event. A drift of the inputs alone is an event only.
    """

    detect: bool = True
    action: Action = "rehearsal"
