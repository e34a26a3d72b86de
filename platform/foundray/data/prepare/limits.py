"""How much of the raw data may be bad before a command stops, and the sentence with which it does."""

from __future__ import annotations

from dataclasses import dataclass

from foundray.data.prepare.quarantine import Balance, Tally, amount
from foundray.errors import InputError

SHOWN = 2
"""Kinds of reasons that a sentence names."""
LONG = 240
"""Characters of a reason in a sentence."""


@dataclass(frozen=True)
class Limits:
    """How much may be bad before a command stops."""

    rows: int
    """Units that may be missing, from all sources together."""
    share: float
    """Part of what a source holds that may be."""
    rows_by: str = "data.max_bad_rows"
    """What sets the first."""
    share_by: str = "data.max_bad_share"
    """What sets the second."""

    def check_rows(self, bad: int, name: str, tally: Tally, path: str, listed: str) -> None:
        """Raises InputError where more is bad than may be; `tally` is what was read of the source `name` so far."""
        if bad > self.rows:
            limit = f"more than {self.rows_by} of {self.rows:,}"
            if bad > tally.balance.bad:
                limit += f" with those of other sources ({bad:,} in all)"
            suspect = tally.balance.share() > self.share
            raise InputError(_refusal(name, tally, path, limit, self._mend(name, self.rows_by, suspect), listed))

    def check_share(self, name: str, tally: Tally, path: str, listed: str) -> None:
        """Raises InputError where most of a source, which was read to its end, is bad, or nothing of it can be used."""
        balance = tally.balance
        if not balance.documents:
            raise InputError(nothing_in(name, tally, path, f"mend {name} or the data", listed))
        if balance.bad and balance.share() > self.share:
            limit = f"a larger part than {self.share_by} of {self.share:g}"
            raise InputError(_refusal(name, tally, path, limit, self._mend(name, self.share_by, True), listed))

    def exceeded(self, balance: Balance) -> bool:
        """Whether `check_rows` or `check_share` would raise for a source that is alone."""
        return balance.bad > self.rows or (balance.bad > 0 and balance.share() > self.share)

    def _mend(self, name: str, limit: str, suspect: bool) -> str:
        return f"mend {f'{name} or ' if suspect else ''}the data, or raise {limit}"


def nothing_in(name: str, tally: Tally, path: str, remedy: str, listed: str = "") -> str:
    """Why a source that was read to its end holds nothing that can be used."""
    balance = tally.balance
    if balance.bad:
        return _refusal(name, tally, path, "", remedy, listed)
    notes = "; ".join(_short(reason.reason) for reason in tally.reasons()[:SHOWN])
    found = f"all that is in it is empty ({balance.empty:,})" if balance.empty else "nothing is in it"
    return f"{name}: no usable document in {path}: {found}{f'; {notes}' if notes else ''}; {remedy}"


def _refusal(name: str, tally: Tally, path: str, limit: str, remedy: str, listed: str) -> str:
    """The sentence: how much is bad, what it has in place of what is asked for, and what to do."""
    balance = tally.balance
    can = f"and {balance.documents:,} can" if balance.documents else "and none can"
    said = f"{name}: {amount(balance.lost)} of {path} cannot be used {can}{', ' + limit if limit else ''}: "
    reasons = [reason for reason in tally.reasons() if reason.lost]
    several = len(reasons) > 1
    said += "; ".join(
        f"{_short(one.reason)} ({amount({one.unit: one.lost}) + ', ' if several else ''}the first: {one.first})"
        for one in reasons[:SHOWN]
    )
    if len(reasons) > SHOWN:
        said += f"; and {len(reasons) - SHOWN} more reasons"
    if sum(tally.kinds.values()) > 1:
        said += f"; kinds of files: {', '.join(f'{count:,} of {kind}' for kind, count in tally.kinds.most_common(3) if count)}"
    return f"{said}; {remedy}{f'; `foundray quarantine {listed}` lists them' if listed else ''}"


def _short(reason: str) -> str:
    return reason if len(reason) <= LONG else reason[: LONG - 1] + "…"
