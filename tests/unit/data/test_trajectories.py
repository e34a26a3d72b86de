"""Damaged or wrong trajectory files: one sentence each, and the rest is used."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.files import rows

from foundray.contract import load_modality
from foundray.data.prepare.sources import BadRow

COUNT = 40
WHOLE = {
    "states": np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32),
    "actions": np.random.default_rng(1).standard_normal((COUNT, 2)).astype(np.float32),
    "rewards": np.ones(COUNT, np.float32),
    "lengths": np.array([25, 15]),
}
EPISODES = [
    {field: WHOLE[field][span].tolist() for field in WHOLE if field != "lengths"} for span in (slice(25), slice(25, 40))
]


def trajectory(**options: Any) -> Any:
    return load_modality("trajectory", {"state_width": 3, "action_width": 2, **options})


def npz(**changes: Any) -> bytes:
    np.savez(file := io.BytesIO(), **{**WHOLE, **changes})
    return file.getvalue()


def parquet(episodes: list[dict[str, Any]] | pa.Table, **options: Any) -> bytes:
    table = episodes if isinstance(episodes, pa.Table) else pa.Table.from_pylist(episodes)
    pq.write_table(table, file := io.BytesIO(), **options)
    return file.getvalue()


def outcomes(folder: Path, content: bytes, name: str = "a.npz", **options: Any) -> list[Any]:
    """Steps of each row in a file with this content; (position, reason, lost, unit) for what is lost."""
    (folder / name).write_bytes(content)
    found = rows(trajectory(**options), folder / name, length=90)
    return [(r.position, r.reason, r.lost, r.unit) if isinstance(r, BadRow) else len(r["returns"]) for r in found]


def of_file(reason: str, lost: int = 1, unit: str = "file") -> list[Any]:
    return [("byte 0", reason, lost, unit)]


NEEDS = "it needs states, actions, rewards, lengths"


# npz


def test_whole_files(tmp_path: Path) -> None:
    assert outcomes(tmp_path, npz()) == [25, 15]
    assert outcomes(tmp_path, parquet(EPISODES), "a.parquet") == [25, 15]
    assert outcomes(tmp_path, parquet(EPISODES), "a.npz") == [25, 15], "what a file is, its first bytes say"
    np.savez_compressed(packed := io.BytesIO(), **WHOLE, more=np.arange(3))
    assert outcomes(tmp_path, packed.getvalue()) == [25, 15]
    alike = {"states": np.asfortranarray(WHOLE["states"].astype(">f8")), "rewards": np.ones((COUNT, 1), bool)}
    (tmp_path / "b.npz").write_bytes(npz(**alike))
    assert rows(trajectory(), tmp_path / "b.npz", length=90) == rows(trajectory(), tmp_path / "a.npz", length=90)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    assert outcomes(tmp_path, b"") == of_file("empty", 0)
    np.save(single := io.BytesIO(), WHOLE["states"])
    assert outcomes(tmp_path, single.getvalue()) == of_file(f"a single array (npy), not an npz file; {NEEDS}")
    assert outcomes(tmp_path, npz()[:-50]) == of_file("not an npz file of plain arrays: File is not a zip file")
    assert outcomes(tmp_path, npz(), prefix="Hopper/") == of_file(
        "no array 'Hopper/states'; there are: states, actions, rewards, lengths; it needs Hopper/states, Hopper/actions, "
        "Hopper/rewards, Hopper/lengths"
    )


def test_a_damaged_array_costs_the_episodes_and_is_named(tmp_path: Path) -> None:
    np.savez_compressed(packed := io.BytesIO(), **WHOLE)
    for content, start in ((npz(), 200), (packed.getvalue(), 60)):
        for value in (0xFF, 0x00, 0x55):
            damaged = content[:start] + bytes([value] * 30) + content[start + 30 :]
            ((position, reason, lost, unit),) = outcomes(tmp_path, damaged)
            assert reason.startswith("its array 'states' is damaged: ")
            assert (position, lost, unit) == ("byte 0", 2, "episode")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rewards": np.float64(1)}, "its rewards are a single number; they must have one entry per step"),
        ({"rewards": np.ones((COUNT, 2))}, "its rewards have the shape (40, 2); they must be one number per step"),
        ({"lengths": [-5, 45]}, "its lengths are wrong: that of episode 0 is -5"),
        ({"lengths": [25, 16]}, "its lengths add up to 41 steps, and it has 40"),
        ({"lengths": [2**62, 2**62]}, f"its lengths add up to {2**63} steps, and it has 40"),
        ({"rewards": np.ones(39)}, "its lengths add up to 40 steps, and it has 40 states, 40 actions, 39 rewards"),
        ({"states": np.array(["1.5"] * COUNT)}, "its array 'states' has the type <U3, not numbers"),
        ({"actions": np.ones((COUNT, 2), complex)}, "its array 'actions' has the type complex128, not numbers"),
        ({"rewards": np.zeros(COUNT, "datetime64[s]")}, "its array 'rewards' has the type datetime64[s], not numbers"),
        ({"states": np.array([None] * COUNT)}, "its array 'states' is pickled: object arrays are not loaded"),
        ({"states": np.zeros(COUNT, "f4,f4")}, "its array 'states' has the type [('f0', '<f4'), ('f1', '<f4')], not numbers"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_cost_all_episodes(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert outcomes(tmp_path, npz(**changes)) == of_file(reason, 2, "episode")


@pytest.mark.parametrize("lengths", [[25.0, 15.0], [[25], [15]], ["25", "15"], [True, False]])
def test_invalid_lengths(tmp_path: Path, lengths: Any) -> None:
    ((_, reason, lost, unit),) = outcomes(tmp_path, npz(lengths=np.array(lengths)))
    assert "lengths" in reason
    assert "numbers" in reason
    assert (lost, unit) == (1, "file")


def zipped(**contents: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in contents.items():
            target.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(values: Any) -> bytes:
    np.save(file := io.BytesIO(), np.asarray(values))
    return file.getvalue()


def test_headers_that_lie_allocate_nothing(tmp_path: Path) -> None:
    arrays = {name: npy(values) for name, values in WHOLE.items()}
    assert outcomes(tmp_path, zipped(**arrays)) == [25, 15]
    states = arrays["states"]
    huge = states.replace(b"(40, 3), }" + b" " * 12, b"(40, 1000000000000), }")
    assert len(huge) == len(states)
    assert outcomes(tmp_path, zipped(**{**arrays, "states": huge})) == of_file(
        "its array 'states' should have 160000000000000 bytes, by its shape, and has 480", 2, "episode"
    )
    for damaged in (
        states[:-3],
        states.replace(b"(40, 3), } ", b"(40, -3), }"),
        states.replace(b"'<f4'", b"'<x4'"),
        states[:9],
    ):
        ((_, reason, lost, unit),) = outcomes(tmp_path, zipped(**{**arrays, "states": damaged}))
        assert "its array 'states' " in reason
        assert (lost, unit) == (2, "episode")
    bomb = bytearray(zipped(**arrays))
    entry = bomb.index(b"PK\x01\x02")  # in the list at the end, of the first array
    bomb[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    ((_, reason, _, _),) = outcomes(tmp_path, bytes(bomb))
    assert reason.startswith("its arrays would unpack to 2,147,")
    assert reason.endswith("at most 1 GiB, or 8 times the file, is read")


def test_only_the_bad_episode_is_lost(tmp_path: Path) -> None:
    bad = WHOLE["states"].copy()
    bad[30] = np.nan
    assert outcomes(tmp_path, npz(states=bad)) == [25, ("episode 1", "a value is missing or not finite", 1, "episode")]
    assert outcomes(tmp_path, npz(lengths=[25, 0, 15])) == [25, ("episode 1", "empty", 0, "episode"), 15]
    long = outcomes(tmp_path, npz(), longest=20)
    assert long == [("episode 0", "an episode of 25 steps, and longest is 20", 1, "episode"), 15]


@pytest.mark.parametrize("huge", [1e25, 1e39, 1e300])
def test_values_whose_squares_overflow_are_quarantined(tmp_path: Path, huge: float) -> None:
    for field, name in (("states", "state"), ("actions", "action"), ("rewards", "return")):
        values = WHOLE[field].astype(np.float64)
        values[30] = huge
        said, (_, reason, lost, unit) = outcomes(tmp_path, npz(**{field: values}))
        assert said == 25
        assert reason.startswith(f"a {name} of ")
        assert (lost, unit) == (1, "episode")
    big = WHOLE["states"].astype(np.float64) * 1e20
    assert outcomes(tmp_path, npz(states=big), state_std=[1e20] * 3) == [25, 15], (
        "those that are standardised are not too large"
    )
    assert outcomes(tmp_path, npz(rewards=np.full(COUNT, 1e18)), return_scale=1e18) == [25, 15]


def test_states_are_standardised_before_they_lose_bits(tmp_path: Path) -> None:
    """For example a meter at 4e9 that grows slowly: float32 has only every 256th number."""
    states = 4e9 + WHOLE["states"].astype(np.float64)
    (tmp_path / "a.npz").write_bytes(npz(states=states))
    modality = trajectory(state_mean=[4e9] * 3, state_std=[1] * 3)
    (row, _) = rows(modality, tmp_path / "a.npz", length=90)
    assert np.abs(modality.units(row, 75, None).x[1::3] - WHOLE["states"][:25]).max() < 1e-6
    plain = trajectory(state_mean=[0.1] * 3, state_std=[1.5] * 3)
    (tmp_path / "b.npz").write_bytes(npz(states=states - 4e9))
    (row, _) = rows(plain, tmp_path / "b.npz", length=90)
    narrow = (states[:25] - 4e9).astype(np.float32)
    assert row["states"] == narrow.ravel().tolist(), "others stay 32 bits wide"
    by_hand = (narrow - np.float32(0.1)) / np.float32(1.5)
    assert np.array_equal(plain.units(row, 75, None).x[1::3], by_hand)


# Parquet


def test_rows_that_are_no_episodes(tmp_path: Path) -> None:
    null = dict.fromkeys(EPISODES[0])
    assert outcomes(tmp_path, parquet([EPISODES[0], null, EPISODES[1]]), "a.parquet") == [
        25, ("row 1", "its states are missing", 1, "episode"), 15,
    ]  # fmt: skip
    hole = {**EPISODES[0], "states": [[1.0, None, 2.0], *EPISODES[0]["states"][1:]]}
    gone = {**EPISODES[0], "states": [None, *EPISODES[0]["states"][1:]]}
    ragged = {**EPISODES[0], "states": [[1.0], *EPISODES[0]["states"][1:]]}
    two = {**EPISODES[0], "rewards": EPISODES[0]["rewards"][1:]}
    none = {field: [] for field in EPISODES[0]}
    numbers = "its states, actions and rewards are not arrays of numbers"
    assert outcomes(tmp_path, parquet([hole, gone, ragged, two, none, EPISODES[1]]), "a.parquet") == [
        ("row 0", "a value is missing or not finite", 1, "episode"), ("row 1", numbers, 1, "episode"),
        ("row 2", numbers, 1, "episode"),
        ("row 3", "25 states, 25 actions, 24 rewards: each step must have one of each", 1, "episode"),
        ("row 4", "0 states, 0 actions, 0 rewards: each step must have one of each", 1, "episode"), 15,
    ]  # fmt: skip


def test_columns_that_are_none_of_episodes(tmp_path: Path) -> None:
    steps = {field: WHOLE[field].tolist() for field in EPISODES[0]}
    assert outcomes(tmp_path, parquet(pa.table(steps)), "a.parquet") == of_file(
        "a row holds one step, and is to hold an episode: lists of states, actions, rewards", COUNT, "row"
    )
    words = [{**episode, "actions": [["1", "2"]] * len(episode["rewards"])} for episode in EPISODES]
    assert outcomes(tmp_path, parquet(words), "a.parquet") == of_file(
        "its actions are list<element: list<element: string>>, and not lists of numbers", 2, "episode"
    )
    flat = [{**episode, "actions": 1.0} for episode in EPISODES]
    assert outcomes(tmp_path, parquet(flat), "a.parquet") == of_file("its actions are double, and not lists", 2, "row")
    pairs = [{**episode, "rewards": [[1.0, 1.0]] * len(episode["rewards"])} for episode in EPISODES]
    assert [said[1] for said in outcomes(tmp_path, parquet(pairs), "a.parquet")] == [
        "a reward has the shape (2,), and a step has one number"
    ] * 2
    without = [{"states": episode["states"]} for episode in EPISODES]
    assert outcomes(tmp_path, parquet(without), "a.parquet") == of_file("no column 'actions'; there are: states")
    assert outcomes(tmp_path, b"PAR1" + bytes(99), "a.parquet")[0][1].startswith("not readable as Parquet: ")
    assert outcomes(tmp_path, parquet(pa.Table.from_pylist(EPISODES).slice(0, 0)), "a.parquet") == [
        ("row 0", "empty", 0, "episode")
    ]


def test_a_flipped_bit_costs_its_row_group(tmp_path: Path) -> None:
    episodes = EPISODES * 3
    content = parquet(episodes, row_group_size=2, write_page_checksum=True, compression="none", use_dictionary=False)
    needle = np.float64(EPISODES[1]["states"][3][1]).tobytes()
    at = content.index(needle, content.index(needle) + 1)
    damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    found = outcomes(tmp_path, damaged, "a.parquet")
    assert [said for said in found if isinstance(said, int)] == [25, 15, 25, 15]
    ((position, reason, lost, unit),) = [said for said in found if not isinstance(said, int)]
    assert (position, lost, unit) == ("row 2", 2, "episode")
    assert "row group 1 cannot be read from row 2 on (2 of 2 rows)" in reason
