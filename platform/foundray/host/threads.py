"""Numbers of threads, which decide bits: a matrix product split for another number of threads rounds differently."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, as a run's workers do, regardless of this machine's cores."""
    import torch  # not at the top: data workers do not need torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_blas_thread() -> AbstractContextManager[object]:
    """Let NumPy multiply matrices with one thread: units of data must not depend on the machine's cores or environment."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    """The loaded libraries; cached, because finding them takes milliseconds."""
    return ThreadpoolController()
