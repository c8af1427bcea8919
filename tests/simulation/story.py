"""A run told in words."""

from typing import Any

from faults import BROKEN, LATE, LOST


def story(outcome: Any, promise: str = "") -> str:
    """What there was, what was done, and which promise was broken."""
    plan = outcome.plan
    settings = ", ".join(f"{name} {value}" for name, value in plan["settings"].items())
    lines = [
        f"There are {', '.join(plan['processes'])}, and the models {', '.join(plan['models'])} {plan['more'] or ''}.",
        f"Settings: {settings}.",
    ]
    lines += [f"  {move['at']:7.3f} s  {_sentence(move)}" for move in plan["moves"]]
    logged = [
        f"  {at - 1000:7.3f} s  {who}: {text} {fields}"
        for at, who, text, fields in outcome.logged
        if not text.startswith(("info", "debug"))
    ]
    if logged:
        lines += ["What the processes logged:", *logged[:12]]
    lines += ["Then:"]
    lines += [f"  {b.at:7.3f} s  {b}" for b in outcome.broken if promise in b.promise][:5] or [
        "  all promises hold."
    ]
    return "\n".join(lines)


def _sentence(move: dict[str, Any]) -> str:
    do, who = move["do"], move.get("who", "")
    seconds = f"{move['seconds']:g} s" if "seconds" in move else ""
    match do:
        case "hold" if move["how"] == LOST:
            return f"The next answer to {move['what']} of {who} is lost with its connection."
        case "hold" if move["how"] == LATE:
            return f"The next answer to {move['what']} of {who} comes {seconds} late."
        case "hold" if move["how"] == BROKEN:
            return (
                f"The connection of {who} breaks while the next {move['what']} is on its way; "
                f"that is carried out {seconds} later."
            )
        case "hold":
            return f"The next {move['what']} of {who} is held back for {seconds}; others overtake it."
        case "cut":
            what = "All connections" if move.get("all") else "Some connections"
            return f"{what} of {who} are cut{'; what was under way is lost' if move.get('drop') else ''}."
        case "pause":
            return f"{who} stands still for {seconds}."
        case "stall":
            return f"The thread {move['thread']} of {who} stands still for {seconds}."
        case "kill":
            return f"{who} is killed, and started again after {seconds}."
        case "jump":
            return f"The clock of {who} jumps by {seconds}."
        case "copy":
            return "A copy of Redis is taken."
        case "back":
            return f"Redis dies and comes back after {seconds} as the newest copy has it."
        case "empty":
            return f"Redis dies and comes back after {seconds} with nothing."
        case "restart":
            return f"Redis dies and comes back after {seconds} as it was."
        case "freeze":
            return f"Redis carries out nothing for {seconds}."
        case "full":
            return f"Redis is full for {seconds}."
    rest = {name: value for name, value in move.items() if name not in ("id", "at", "do", "web", "model")}
    details = ", ".join(f"{name} {value}" for name, value in rest.items() if value not in (None, False))
    place = f" {move['model']}" if move.get("model") else ""
    return f"A client at {move['web']}: {do}{place}{f' ({details})' if details else ''}."
