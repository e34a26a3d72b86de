"""Two kinds of errors: the input is at fault (exit status 2), or the run failed (exit status 1)."""


class FoundrayError(Exception):
    """One clear sentence for the user; the command line prints it without a traceback."""

    exit_status = 1


class RunFailed(FoundrayError):
    """The run stopped, in a state from which `foundray resume` continues."""


class InputError(FoundrayError):
    """The spec, data, storage or cluster cannot be used as given. The message says what, where, and what would be right."""

    exit_status = 2


class StorageAway(InputError):
    """Storage cannot be read or written now; it may work later."""


class BadData(InputError):
    """Prepared data cannot be read or decoded, and a retry would not help. The message says what, where and why."""
