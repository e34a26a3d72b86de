"""Collecting less leaves the collector as it was."""

from __future__ import annotations

import gc

from foundray.host.garbage import uncollected


def test_nothing_is_collected_during_the_block_alone() -> None:
    frozen = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count() > frozen
        gc.disable()
        with uncollected():
            pass
        assert not gc.isenabled(), "as before"
    finally:
        gc.enable()
        gc.unfreeze()
