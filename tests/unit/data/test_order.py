"""The global order: every sample once per epoch, by weight, from any position, the same everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.manifests import manifest, order

from foundray.data.prepare.manifest import group_sizes, groups_in
from foundray.data.stream.order import CYCLE, apportion, mix, permutation


def test_every_sample_once_per_epoch() -> None:
    subject = order([[1000, 300, 5000, 17, 9000]], [1.0])
    n = subject.train_samples
    assert n == 15317 - 1532
    epochs = [subject.ids(subject.train(e * n, n)) for e in range(3)]
    assert len(set(epochs[0])) == n
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    held_out = subject.ids(subject.validation(0, 10**9))
    assert len(held_out) == 1532
    assert not set(held_out) & set(epochs[0])
    # The validation split is the end of the source, in file order.
    assert held_out[-1] == "0-00004:8999"
    assert held_out == [f"0-00004:{row}" for row in range(9000 - 1532, 9000)]


def test_order_does_not_depend_on_how_it_is_read() -> None:
    subject = order([[3000, 500], [700]], [1.0, 2.0])
    whole = subject.ids(subject.train(0, 20_000))
    parts: list[str] = []
    while len(parts) < 20_000:
        parts += subject.ids(subject.train(len(parts), min(617, 20_000 - len(parts))))
    assert parts == whole
    assert subject.ids(subject.train(12_345, 50)) == whole[12_345:12_395]


def test_sources_are_mixed_by_weight_and_each_keeps_its_own_epochs() -> None:
    subject = order([[2000], [300], [50]], [1.0, 2.0, 5.0])
    ids = subject.ids(subject.train(0, 8 * CYCLE))
    sources = np.array([int(name[0]) for name in ids])
    assert np.allclose(np.bincount(sources) / len(ids), [1 / 8, 2 / 8, 5 / 8], atol=2e-3)
    for part in np.split(sources, 64):  # evenly over time, too
        assert np.allclose(np.bincount(part, minlength=3) / len(part), [1 / 8, 2 / 8, 5 / 8], atol=0.09)
    for source, n in enumerate((1800, 270, 45)):
        names = [name for name in ids if name.startswith(f"{source}-")]
        for epoch in range(len(names) // n):
            assert len(set(names[epoch * n : (epoch + 1) * n])) == n


def test_another_seed_is_another_order_of_the_same_samples() -> None:
    one, other = order([[5000]], [1.0], seed=1), order([[5000]], [1.0], seed=2)
    a, b = (o.ids(o.train(0, 4500)) for o in (one, other))
    assert a != b
    assert sorted(a) == sorted(b)


def test_the_order_is_shuffled() -> None:
    subject = order([[256 * 40]], [1.0])
    address = subject.train(0, subject.train_samples)
    rows = address.group * 256 + address.row
    assert (np.diff(rows) == 1).mean() < 0.01
    # Neighbours come from the same window of row groups, and from anywhere in it.
    assert abs(np.corrcoef(address.row[:-1], address.row[1:])[0, 1]) < 0.05
    assert len(set(address.group[:100])) > 10


def test_a_late_start_costs_no_more_than_an_early_one() -> None:
    def permuted(position: int) -> int:
        """Count of numbers permuted to find 1000 samples."""
        subject, work = order([[100_000] * 20], [1.0]), 0

        def counted(n: int, *key: int) -> np.ndarray:
            nonlocal work
            work += n
            return permutation(n, *key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("foundray.data.stream.order.permutation", counted)
            subject.train(position, 1000)
        return work

    assert permuted(10**9) <= 2 * permuted(0)  # twice, if it falls on the border of two windows


def test_permutations_are_pinned() -> None:
    """The order must not change between versions: later versions resume runs."""
    assert permutation(8, 1, 2, 3).tolist() == PINNED
    assert sorted(permutation(1000, 5)) == list(range(1000))
    assert mix(1, 2) != mix(2, 1)


PINNED = [0, 6, 1, 4, 7, 2, 5, 3]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [1e-9, 1.0], [0.3, 0.3, 0.4]])
def test_apportion(weights: list[float]) -> None:
    counts = apportion(weights, CYCLE)
    assert counts.sum() == CYCLE
    assert (counts >= 1).all()
    assert np.allclose(counts / CYCLE, np.array(weights) / sum(weights), atol=1e-3)


def test_samples_of_each_source_so_far() -> None:
    subject = order([[4000], [2000]], [3.0, 1.0])
    for samples in (0, 1, 100, CYCLE, 2 * CYCLE + 777):
        assert subject.seen(samples) == [int((subject.train(0, samples).shard == source).sum()) for source in (0, 1)]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=6), st.integers(1, 300))
def test_row_groups_are_full_but_for_the_last_of_each_shard(rows: list[int], per_group: int) -> None:
    shards = manifest([rows]).shards
    each = [[min(per_group, n - start) for start in range(0, n, per_group)] for n in rows]
    assert groups_in(shards, per_group).tolist() == [len(sizes) for sizes in each]
    assert group_sizes(shards, per_group).tolist() == [size for sizes in each for size in sizes]
