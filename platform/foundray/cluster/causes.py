"""Describe an error in one line, without the layers of Ray around it."""

from __future__ import annotations

import re

from foundray.contract import Unreadable
from foundray.errors import BadData, FoundrayError, InputError, RunFailed, StorageAway
from foundray.wording.sentences import plain

LONG = 600
"""Characters shown of an error from another library."""
_LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RAISED = re.compile(r"(?P<kind>[A-Za-z_][\w.<>]*)(?:: (?P<message>.*))?")
"""The line of a traceback that names the exception; all lines before it are headings, or indented."""
_HEADINGS = ("Traceback (", "ray::", '  File "')
"""Beginnings of the lines before that one."""
_ADVICE = ("UDF failed to process a data block", "Failed to apply UDF transform after", "To change retry attempts")
"""Beginnings of the text that Ray Data adds to every exception's message."""
_OURS = {kind.__name__ for kind in (FoundrayError, RunFailed, InputError, StorageAway, BadData, Unreadable)}
"""Errors whose message is a sentence."""
_RAYS = ("ray.", "RayTaskError", "UserCodeException", "SystemException")


def described(error: BaseException) -> str:
    """One line: the sentence of a Foundray error; type and message of another."""
    return _line(type(error).__name__, str(error))


def cause_of(error: BaseException) -> str:
    """Describe the root cause inside Ray's tasks, actors and workers, without Ray's advice.

    Ray passes on the exception itself, as `cause`, if it can; Ray Data, and errors that crossed several processes, carry
    only a traceback as text.
    """
    failures = getattr(error, "worker_failures", None)  # of Ray Train, by rank
    if failures:
        return cause_of(next(iter(failures.values())))
    inner = getattr(error, "cause", None)
    if isinstance(inner, BaseException) and inner is not error:
        if not _is_rays(inner):
            return described(inner)
        if not _raised_in(str(error)):
            return cause_of(inner)
    if raised := _raised_in(str(error)) if _is_rays(error) else []:
        outer, first = raised[-1], raised[0]
        line = _line(*outer)
        # Code that raises one error from another says more in the second, but may omit details of the first.
        return line if first[1] in outer[1] or outer[0] in _OURS else f"{line} (from {_line(*first)})"[:LONG]
    if error.__cause__ is not None and not _is_silent(error.__cause__):
        return cause_of(error.__cause__)
    return _line(type(error).__name__, next((line for line in str(error).splitlines() if line.strip()), ""))


def is_away(error: BaseException) -> bool:
    """Whether the cause, also inside Ray's tasks and actors, is that storage does not answer now."""
    inner = getattr(error, "cause", None)
    if isinstance(error, StorageAway) or (isinstance(inner, BaseException) and inner is not error and is_away(inner)):
        return True
    return _is_rays(error) and any(kind == StorageAway.__name__ for kind, _ in _raised_in(str(error)))


def sentence_of(error: FoundrayError) -> str:
    """The error's sentence. Ray re-raises a task's error as both its own type and ours, with a traceback in it."""
    return cause_of(error) if _is_rays(error) else str(error)


def raised_in(traceback: str) -> str | None:
    """Message of the exception that ends a traceback given as text; None if it is not a traceback."""
    raised = _last_of(traceback)
    return raised and (raised[1].strip() or raised[0])


def _raised_in(text: str) -> list[tuple[str, str]]:
    """(type, message) of the exceptions in a traceback, root cause first, without Ray's own."""
    parts = [_COLOURS.sub("", text)]
    for link in _LINKS:
        parts = [section for part in parts for section in part.split(link)]
    found = [raised for part in parts if (raised := _last_of(part))]
    return [(kind.rpartition(".")[2], message) for kind, message in found if not kind.startswith(_RAYS)]


def _last_of(traceback: str) -> tuple[str, str] | None:
    """(type, message) of the exception that ends one traceback; the message may have several lines. None if there is none."""
    lines = traceback.strip("\n").splitlines()
    headings = [number for number, line in enumerate(lines) if line.startswith(_HEADINGS)]
    if not headings:
        return None
    for number in range(headings[-1] + 1, len(lines)):
        if not lines[number].startswith(" ") and (match := _RAISED.fullmatch(lines[number].rstrip())):
            return match["kind"], "\n".join([match["message"] or "", *lines[number + 1 :]])
    return None


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] == "ray"


def _is_silent(error: BaseException) -> bool:
    return _is_rays(error) and not str(error).strip()


def _line(kind: str, message: str) -> str:
    for advice in _ADVICE:
        message = message.partition(advice)[0]
    message = plain(message)
    return (message if kind in _OURS and message else f"{kind}: {message}" if message else kind)[:LONG]
