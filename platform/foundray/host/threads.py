"""Numbers of threads, as far as bits follow from them: a matrix product that is cut for another number rounds differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, as a run's workers do, however many cores this machine has."""
    import torch  # not above: data workers need none

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_blas_thread() -> AbstractContextManager[object]:
    """Let NumPy multiply matrices with one thread: units of data must not follow from the machine's cores or environment."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    """Those that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()
