"""What can go wrong, in two kinds: the input is at fault (exit status 2), or the run failed (exit status 1)."""


class FoundrayError(Exception):
    """One clear sentence for the user; the command line prints it without a traceback."""

    exit_status = 1


class RunFailed(FoundrayError):
    """The run stopped, in a state from which `foundray resume` goes on."""


class InputError(FoundrayError):
    """The spec, the data, the storage or the cluster cannot be used as given: what, where, what would be right."""

    exit_status = 2


class StorageAway(InputError):
    """Storage that does not give or take something now, and may later."""


class BadData(InputError):
    """Prepared data that cannot be read or decoded, however often one tries: what, where, why."""
