"""Items of a task: one JSON object per line, in any language; its fields say what is asked.

{"context": "The sky is", "choices": [" blue", " green"], "answer": 0}      multiple choice
{"text": "The ___ is blue.", "choices": ["sky", "sea"], "answer": "sky"}    a gap to fill
{"context": "The sky is", "answer": " blue"}                                an answer
{"good": "The cats sleep.", "bad": "The cats sleeps."}                      a minimal pair
{"text": "A whole document."}                                               a text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from foundray.data.formats import Rewrites, rewritten
from foundray.errors import InputError

GAP = "___"
"""Stands for what a choice fills."""
FORMS = "context, choices and answer; text with ___, choices and answer; context and answer; good and bad; or text"


@dataclass(frozen=True)
class Candidate:
    """A text whose likelihood after a context is asked for."""

    context: str
    text: str
    said: str
    """What its length is measured by: a choice without the rest of its sentence."""


@dataclass(frozen=True)
class Item:
    kind: str
    """`choice`, `answer`, `pair` or `text`."""
    candidates: tuple[Candidate, ...]
    gold: int
    """Index of the right candidate."""
    group: str = ""
    """The part of the task that the item belongs to, such as a language; empty if it names none."""

    def rewritten(self, rewrites: Rewrites) -> Item:
        """The item with its texts as the readers of a run's data would have given them. Raises InputError for an empty one."""
        if not rewrites:
            return self
        candidates = [
            Candidate(*(rewritten(text, rewrites) for text in (one.context, one.text, one.said))) for one in self.candidates
        ]
        if not all(one.said for one in candidates):
            raise InputError("a text of it holds nothing that the readers of the run's data keep")
        return replace(self, candidates=tuple(candidates))


def read_items(content: bytes, where: str, delimiter: str = "", limit: int | None = None) -> list[Item]:
    """Read the items of a file, at most `limit`; `delimiter` stands between a context and what follows it.

    Raises InputError, which names the line, if a line is no item, or if the items are of several kinds.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: it is a number of items, 1 or more, not {limit}")
    items: list[Item] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or len(items) == limit:
            continue
        try:
            items.append(_item(json.loads(line), delimiter))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{where}, line {number}: it is no JSON object ({error})") from None
        except RecursionError:
            raise InputError(f"{where}, line {number}: it is nested too deeply; a line has {FORMS}") from None
        except ValueError as error:
            raise InputError(f"{where}, line {number}: {error}") from None
        if items[-1].kind != items[0].kind:
            raise InputError(
                f"{where}, line {number}: this item is of the kind {items[-1].kind}, and the first of the kind "
                f"{items[0].kind}; a task has items of one kind"
            )
    if not items:
        raise InputError(f"{where}: it has no items; a line has {FORMS}")
    return items


def _item(fields: Any, delimiter: str) -> Item:
    """Raises ValueError, whose text says what is wrong."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"it is no JSON object; a line has {FORMS}")
    fields = {_RENAMED.get(name, name): value for name, value in fields.items()}
    group = fields.get("group", "")
    if not isinstance(group, str):
        raise ValueError(f"group is text, not {group!r}")
    for needed, make in _KINDS:
        if needed <= fields.keys():
            kind, made, gold = make(fields, delimiter)
            candidates = tuple(made)
            if any("\ud800" <= letter <= "\udfff" for one in candidates for letter in one.context + one.text + group):
                raise ValueError("it holds half a surrogate pair, which is no character")
            return Item(kind, candidates, gold, group)
    raise ValueError(f"it has the fields {', '.join(map(str, fields)) or 'none'}; a line has {FORMS}")


_Made = tuple[str, Iterable[Candidate], int]


def _choice(fields: Mapping[str, Any], delimiter: str) -> _Made:
    choices = _choices(fields)
    context = _text(fields, "context")
    between = delimiter if context else ""
    return "choice", [Candidate(context, between + choice, choice) for choice in choices], _gold(fields["answer"], choices)


def _gap(fields: Mapping[str, Any], delimiter: str) -> _Made:
    choices = _choices(fields)
    before, gap, after = _text(fields, "text").partition(GAP)
    if not gap or GAP in after:
        raise ValueError(f"text must have one gap, written {GAP}, for the choices to fill")
    return "choice", [Candidate(before, choice + after, choice) for choice in choices], _gold(fields["answer"], choices)


def _answer(fields: Mapping[str, Any], delimiter: str) -> _Made:
    context, answer = _text(fields, "context"), _text(fields, "answer", empty=False)
    return "answer", [Candidate(context, (delimiter if context else "") + answer, answer)], 0


def _pair(fields: Mapping[str, Any], delimiter: str) -> _Made:
    texts = [_text(fields, name, empty=False) for name in ("good", "bad")]
    return "pair", [Candidate("", text, text) for text in texts], 0


def _whole(fields: Mapping[str, Any], delimiter: str) -> _Made:
    text = _text(fields, "text", empty=False)
    return "text", [Candidate("", text, text)], 0


_KINDS: tuple[tuple[set[str], Callable[[Mapping[str, Any], str], _Made]], ...] = (
    ({"context", "choices", "answer"}, _choice),
    ({"text", "choices", "answer"}, _gap),
    ({"context", "answer"}, _answer),
    ({"good", "bad"}, _pair),
    ({"text"}, _whole),
)
_RENAMED = {"sentence_good": "good", "sentence_bad": "bad"}
"""BLiMP's names."""


def _text(fields: Mapping[str, Any], name: str, empty: bool = True) -> str:
    value = fields[name]
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(f"{name} is {'' if empty else 'non-empty '}text, not {value!r}")
    return value


def _choices(fields: Mapping[str, Any]) -> list[str]:
    choices = fields["choices"]
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise ValueError("choices is a list of two or more non-empty texts")
    return choices


def _gold(answer: Any, choices: list[str]) -> int:
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    raise ValueError(f"answer is one of the choices, or its number from 0 to {len(choices) - 1}, not {answer!r}")
