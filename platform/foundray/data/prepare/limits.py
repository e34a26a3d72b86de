"""Limits on bad raw data, and the error message of a command that exceeds them."""

from __future__ import annotations

from dataclasses import dataclass

from foundray.data.prepare.quarantine import Balance, Tally, amount
from foundray.errors import InputError

SHOWN = 2
"""Kinds of reasons that a message names."""
LONG = 240
"""Characters of a reason in a message."""


@dataclass(frozen=True)
class Limits:
    """How much bad data stops a command."""

    rows: int
    """Most missing units, over all sources."""
    share: float
    """Largest fraction of one source that may be missing."""
    rows_by: str = "data.max_bad_rows"
    """Name of the setting behind `rows`."""
    share_by: str = "data.max_bad_share"
    """Name of the setting behind `share`."""

    def check_rows(self, bad: int, name: str, tally: Tally, path: str, listed: str) -> None:
        """Raises InputError if `bad` units are too many; `tally` is what was read of the source `name` so far."""
        if bad > self.rows:
            limit = f"more than {self.rows_by} of {self.rows:,}"
            if bad > tally.balance.bad:
                limit += f" with those of other sources ({bad:,} in all)"
            suspect = tally.balance.share() > self.share
            raise InputError(_refusal(name, tally, path, limit, self._remedy(name, self.rows_by, suspect), listed))

    def check_share(self, name: str, tally: Tally, path: str, listed: str) -> None:
        """Raises InputError if too much of a source that was read to its end is bad, or none of it can be used."""
        balance = tally.balance
        if not balance.documents:
            raise InputError(nothing_in(name, tally, path, f"fix {name} or the data", listed))
        if balance.bad and balance.share() > self.share:
            limit = f"a larger share than {self.share_by} of {self.share:g}"
            raise InputError(_refusal(name, tally, path, limit, self._remedy(name, self.share_by, True), listed))

    def exceeded(self, balance: Balance) -> bool:
        """Whether `check_rows` or `check_share` would raise for a spec with one source."""
        return balance.bad > self.rows or (balance.bad > 0 and balance.share() > self.share)

    def _remedy(self, name: str, limit: str, suspect: bool) -> str:
        return f"fix {f'{name} or ' if suspect else ''}the data, or raise {limit}"


def nothing_in(name: str, tally: Tally, path: str, remedy: str, listed: str = "") -> str:
    """Message for a source that was read to its end and has nothing usable."""
    balance = tally.balance
    if balance.bad:
        return _refusal(name, tally, path, "", remedy, listed)
    notes = "; ".join(_short(reason.reason) for reason in tally.reasons()[:SHOWN])
    found = f"everything in it is empty ({balance.empty:,})" if balance.empty else "it is empty"
    return f"{name}: no usable document in {path}: {found}{f'; {notes}' if notes else ''}; {remedy}"


def _refusal(name: str, tally: Tally, path: str, limit: str, remedy: str, listed: str) -> str:
    """Message: how much is bad, what the data has instead of what was expected, and the remedy."""
    balance = tally.balance
    usable = f"and {balance.documents:,} can" if balance.documents else "and none can"
    message = f"{name}: {amount(balance.lost)} of {path} cannot be used {usable}{', ' + limit if limit else ''}: "
    reasons = [reason for reason in tally.reasons() if reason.lost]
    several = len(reasons) > 1
    message += "; ".join(
        f"{_short(one.reason)} ({amount({one.unit: one.lost}) + ', ' if several else ''}the first: {one.first})"
        for one in reasons[:SHOWN]
    )
    if len(reasons) > SHOWN:
        message += f"; and {len(reasons) - SHOWN} more reasons"
    if sum(tally.kinds.values()) > 1:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in tally.kinds.most_common(3) if count)
        message += f"; kinds of files: {kinds}"
    return f"{message}; {remedy}{f'; `foundray quarantine {listed}` lists them' if listed else ''}"


def _short(reason: str) -> str:
    return reason if len(reason) <= LONG else reason[: LONG - 1] + "…"
