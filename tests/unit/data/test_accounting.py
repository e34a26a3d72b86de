"""Everything that goes into a shard comes out or is accounted for: counted by unit, listed, and refused if too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.data.seeds import SEEDS, Seed

import foundray
from foundray.contract import Values, load_modality
from foundray.data.files.files import find_files
from foundray.data.files.names import compression
from foundray.data.formats.row import BadRow, empty
from foundray.data.prepare.limits import Limits, nothing_in
from foundray.data.prepare.manifest import Manifest, Prepared, Shard
from foundray.data.prepare.prepare import prepare
from foundray.data.prepare.quarantine import Balance, Line, Tally, amount, kind_of, read_lines, summary
from foundray.data.prepare.recipe import prepared_folder
from foundray.data.prepare.shard import Intake, make_shard
from foundray.data.prepare.sources import read_documents, read_rows
from foundray.data.tokenizers.tokenizer import make_bytes
from foundray.errors import InputError
from foundray.planning.survey import survey
from foundray.spec import SourceConfig, Spec
from foundray.spec.loading import parse_spec
from foundray.storage import Store
from foundray.testing.specs import small_spec, write_spec

NO_LIMIT = Limits(10**9, 1.0)
BLANK_IS_EMPTY = ("text", "jsonl", "fasta", "conllu")
"""Formats in which a blank line is no content. In others, a file of one is damaged."""


def spec_of(folder: Path, *sources: dict[str, Any], **changes: Any) -> Spec:
    fields = small_spec(folder, folder / "runs", data__sources=list(sources), **changes)
    return parse_spec(yaml.safe_dump(fields), "test")


def shards_of(spec: Spec, limits: Limits = NO_LIMIT) -> tuple[Store, list[Shard]]:
    """Prepare all units in this process. Returns the folder and the shards."""
    folder, _, units = prepared_folder(spec)
    sources = spec.data.sources
    return folder, [make_shard(folder.url, unit, sources[unit.source], make_bytes(), 32, limits) for unit in units]


def json_lines(file: Path, *lines: str) -> dict[str, Any]:
    file.write_text("".join(line + "\n" for line in lines))
    return {"path": str(file), "format": "jsonl"}


def tally_of(*lines: Line, documents: int = 0) -> Tally:
    tally = Tally()
    tally.balance.documents = documents
    for line in lines:
        tally.add_line(line)
    return tally


def line(reason: str, position: str = "line 1", lost: int = 1, unit: str = "row", source: str = "/x/logs.jsonl") -> Line:
    return Line(source=source, position=position, reason=reason, lost=lost, unit=unit)


def test_documents_and_lost_and_empty_rows_add_up(tmp_path: Path) -> None:
    good = ['{"text": "document %d"}' % number for number in range(50)]  # noqa: UP031
    rows = [*good[:20], "{broken", "", '{"text": ""}', *good[20:], "   ", '{"body": 1}', '{"text": 3}']
    folder, (shard,) = shards_of(spec_of(tmp_path, json_lines(tmp_path / "a.jsonl", *rows)))
    assert (shard.documents, shard.quarantined, shard.lost, shard.empty, shard.notes) == (50, 3, {"row": 3}, 3, 0)
    assert shard.documents + shard.quarantined + shard.empty == len(rows)
    listed = list(read_lines(folder / "quarantine/0-00000.jsonl"))
    assert [one.position for one in listed] == ["line 21", "line 55", "line 56"]
    assert {(one.lost, one.unit) for one in listed} == {(1, "row")}
    assert all(one.source == str(tmp_path / "a.jsonl") for one in listed)


def test_empty_files_are_counted_and_neither_listed_nor_bad(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number:03}.py").write_text("" if number % 3 else f"print({number})\n")
    source = {"path": str(tmp_path / "*.py"), "format": "code"}
    folder, (shard,) = shards_of(spec_of(tmp_path, source), Limits(0, 0.0))
    assert (shard.documents, shard.quarantined, shard.empty) == (50, 0, 100)
    assert (folder / "quarantine/0-00000.jsonl").read_text() == ""


@pytest.mark.parametrize("seed", [seed for seed in SEEDS if compression(seed.name) is None], ids=lambda seed: seed.name)
@pytest.mark.parametrize("content", [b"", b"\n"])
def test_a_file_without_a_row_is_empty_whatever_its_format(seed: Seed, content: bytes, tmp_path: Path) -> None:
    (tmp_path / seed.name).write_bytes(content)
    source = SourceConfig(path=str(tmp_path / seed.name), **seed.source)
    modality = load_modality(*seed.modality) if seed.modality else None
    (file,) = find_files(source, modality.endings if isinstance(modality, Values) else ())
    found = list(read_rows(file, source, modality, 4) if isinstance(modality, Values) else read_documents(file, source))
    if content and source.format not in BLANK_IS_EMPTY:
        assert all(isinstance(row, BadRow) for row in found) and found
    else:
        assert [(row.reason, row.lost) for row in found if isinstance(row, BadRow)] == [("empty", 0)] and len(found) == 1


def test_what_is_lost_counts_as_much_as_is_missing_and_notes_nothing() -> None:
    tally = Tally()
    for bad in (
        BadRow("rows 10 to 1009", "the row group is damaged", 1000, "row"),
        BadRow("a.png", "not an image", 1, "member"),
        BadRow("byte 0", "the first of 12 frames is taken", 0, "image"),
        empty("line 3"),
        empty("b.txt", "file"),
    ):
        assert (tally.add("/x/a", bad) is None) == (bad.reason == "empty")
    assert tally.balance == Balance(lost={"row": 1000, "member": 1}, empty=2, notes=1)
    assert amount(tally.balance.lost) == "1,000 rows and 1 member"
    assert [(one.reason, one.lost, one.lines) for one in tally.reasons()][::2] == [
        ("the row group is damaged", 1000, 1),
        ("the first of 12 frames is taken", 0, 1),
    ]
    with pytest.raises(InputError, match="1,000 rows and 1 member of /x cannot be used"):
        Limits(1000, 1.0).check_rows(1001, "data.sources.0", tally, "/x", "/p")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"row": 1}, "1 row"),
        ({"series": 2, "entry": 3}, "3 entries and 2 series"),
        ({"case": 1, "member": 2, "row": 1234}, "1,234 rows, 2 members and 1 case"),
        ({}, "nothing"),
    ],
)
def test_amounts_in_words(lost: dict[str, int], said: str) -> None:
    assert amount(lost) == said


def test_over_the_limit_of_rows_the_list_is_written_and_the_sentence_names_the_reasons(tmp_path: Path) -> None:
    rows = ['{"text": "good"}'] * 40 + ['{"body": "a", "id": %d}' % number for number in range(20)] + ["{broken"]  # noqa: UP031
    spec = spec_of(tmp_path, json_lines(tmp_path / "logs.jsonl", *rows))
    with pytest.raises(InputError) as refused:
        shards_of(spec, Limits(10, 0.5))
    said = str(refused.value)
    assert said.startswith(f"data.sources.0: 11 rows of {tmp_path}/logs.jsonl cannot be used and 40 can")
    assert "more than data.max_bad_rows of 10" in said
    assert "no field 'text'" in said and "body, id" in said and "line 41" in said
    assert "fix the data, or raise data.max_bad_rows" in said
    folder, _, (unit,) = prepared_folder(spec)
    assert f"`foundray quarantine {folder}` lists them" in said
    assert len(list(read_lines(folder / f"quarantine/{unit.name}.jsonl"))) == 11
    assert not (folder / f"units/{unit.name}.json").exists() and not (folder / f"shards/{unit.name}.parquet").exists()


def test_where_most_is_bad_the_spec_is_named_whatever_the_number() -> None:
    limits = Limits(100, 0.5)
    logs = tally_of(*(line("no field 'text'; it has: body, id, ts", f"line {n}") for n in range(1, 7)), documents=4)
    with pytest.raises(InputError) as refused:
        limits.check_share("data.sources.0", logs, "logs.jsonl", "/p")
    assert str(refused.value) == (
        "data.sources.0: 6 rows of logs.jsonl cannot be used and 4 can, a larger share than data.max_bad_share of 0.5: "
        "no field 'text'; it has: body, id, ts (the first: /x/logs.jsonl, line 1); "
        "fix data.sources.0 or the data, or raise data.max_bad_share; `foundray quarantine /p` lists them"
    )
    half = tally_of(*(line("not JSON", f"line {n}") for n in range(1, 6)), documents=5)
    limits.check_share("data.sources.0", half, "logs.jsonl", "/p")
    with pytest.raises(InputError, match=r"a larger share than data\.max_bad_share of 0\.4"):
        Limits(100, 0.4).check_share("data.sources.0", half, "logs.jsonl", "/p")
    Limits(100, 1.0).check_share("data.sources.0", logs, "logs.jsonl", "/p")


def test_passing_the_limit_of_rows_with_mostly_bad_ones_doubts_the_spec_too() -> None:
    tally = tally_of(*(line(f"not JSON: column {n}", f"line {n}") for n in range(1, 102)), documents=3)
    with pytest.raises(
        InputError, match=r"101 rows .* and 3 can, .*fix data.sources.2 or the data, or raise data.max_bad_rows"
    ):
        Limits(100, 0.5).check_rows(101, "data.sources.2", tally, "logs.jsonl", "/p")
    with pytest.raises(InputError, match=r"more than data.max_bad_rows of 100 with those of other sources \(130 in all\)"):
        Limits(100, 0.5).check_rows(130, "data.sources.2", tally, "logs.jsonl", "/p")
    Limits(101, 0.5).check_rows(101, "data.sources.2", tally, "logs.jsonl", "/p")


def test_a_source_with_nothing_usable_says_what_it_has() -> None:
    files = [line("not text: it begins like a PNG image", "byte 0", 1, "file", f"/x/{n}.png") for n in range(3)]
    files.append(line("not UTF-8 (byte 0xe9)", "byte 7", 1, "file", "/x/a.TXT.gz"))
    with pytest.raises(InputError) as refused:
        Limits(10**9, 1.0).check_share("data.sources.1", tally_of(*files), "/x", "/p")
    assert str(refused.value) == (
        "data.sources.1: 4 files of /x cannot be used and none can: "
        "not text: it begins like a PNG image (3 files, the first: /x/0.png, byte 0); "
        "not UTF-8 (byte 0xe9) (1 file, the first: /x/a.TXT.gz, byte 7); kinds of files: 3 of .png, 1 of .txt; "
        "fix data.sources.1 or the data; `foundray quarantine /p` lists them"
    )
    blank = tally_of(line("left out: 4 members of .png", "archive", 0))
    blank.balance.empty = 3
    said = nothing_in("data.sources.0", blank, "/x", "fix it")
    assert said.startswith("data.sources.0: no usable document in /x: everything in it is empty (3)")
    assert "left out: 4 members of .png" in said


def test_reasons_are_alike_but_for_numbers_values_and_fields_and_the_commonest_wording_is_shown() -> None:
    few = line("no field 'text'; it has: body", "line 1")
    many = [line("no field 'text'; it has: body, id", f"line {number}") for number in range(2, 5)]
    others = [line(f"line {number}: {word!r} is not a number (byte 0x{number:02x})") for number, word in ((9, "a"), (12, "bc"))]
    first, second = tally_of(few, *many, *others).reasons()
    assert (first.reason, first.lost, first.lines) == ("no field 'text'; it has: body, id", 4, 4)
    assert first.first == "/x/logs.jsonl, line 1"
    assert second.lines == 2
    assert kind_of(others[0].reason) == kind_of(others[1].reason) != kind_of(few.reason)


def test_many_kinds_of_reasons_do_not_fill_the_memory() -> None:
    tally = tally_of(*(line("".join("ab"[int(bit)] for bit in f"{number:b}")) for number in range(3000)))
    assert tally.balance.bad == sum(reason.lost for reason in tally.reasons()) == 3000
    assert len(tally.reasons()) == 1001
    assert tally.reasons()[0].reason == "other reasons"


def test_lists_hold_any_text_and_old_lines_count_a_row(tmp_path: Path) -> None:
    place = Store.at(tmp_path) / "quarantine.jsonl"
    odd = Tally().add("/x/caf\udce9.txt", BadRow("line 1", "no field 'a\ud800b'; it has: \u2028, \x0b", 2, "file"))
    assert odd is not None
    old = json.dumps({"source": "/x/a", "position": "line 3", "reason": "empty"}) + "\n"
    place.write_text(odd.to_json() + old)
    first, second = read_lines(place)
    assert (first.source, first.lost, first.unit) == ("/x/caf\\udce9.txt", 2, "file")
    assert "\u2028, \x0b" in first.reason
    assert second == Line(source="/x/a", position="line 3", reason="empty", lost=1, unit="row")
    place.write_bytes(b'{"source": "\xff"}\n')
    with pytest.raises(InputError, match="line 1 is damaged"):
        list(read_lines(place))


def test_earlier_manifests_count_rows_and_new_ones_each_source(tmp_path: Path) -> None:
    old = {
        "file": "a", "source": 1, "inputs": ["x"], "documents": 7, "rows": 9, "tokens": 1, "text_bytes": 1, "bytes": 1,
        "sha256": "", "quarantined": 2,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "name": "x", "recipe": {}, "recipe_sha256": "", "context": 8, "vocabulary": 257, "document_id": 0,
        "tokenizer_sha256": "", "rows": 9, "tokens": 1, "quarantined": 2, "rows_per_group": 8, "shards": [old],
    }  # fmt: skip
    before = Manifest.model_validate_json(json.dumps(fields))
    assert before.balance() == before.balance(1) == Balance(documents=7, lost={"row": 2})
    assert before.balance(0) == Balance()
    # Units without a sample have no shard in the manifest, but are counted.
    balances = [Balance(documents=1, lost={"member": 3}, empty=4, notes=1), Balance(documents=7, lost={"row": 2})]
    now = Manifest.model_validate_json(Manifest(**fields, balances=balances).model_dump_json())
    assert now.balance(0).lost == {"member": 3}
    assert now.balance() == Balance(documents=8, lost={"row": 2, "member": 3}, empty=4, notes=1)


def test_the_line_that_counts_says_where_the_list_is() -> None:
    folder = Store.at("/p/ab")
    said = summary(Balance(documents=1, lost={"row": 12, "member": 3}, empty=40, notes=2), folder / "quarantine.jsonl", folder)
    assert said == (
        ", 12 rows and 3 members quarantined, 2 notes (list: /p/ab/quarantine.jsonl, `foundray quarantine /p/ab` shows it), "
        "40 empty"
    )
    assert summary(Balance(documents=9, empty=1), folder, folder) == ", 1 empty"
    assert summary(Balance(documents=9), folder, folder) == ""


def test_the_share_is_free_and_earlier_specs_have_it(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "a.jsonl", '{"text": "x"}')
    plain, other = spec_of(tmp_path, source), spec_of(tmp_path, source, data__max_bad_share=0.9, data__max_bad_rows=7)
    assert plain.data.max_bad_share == 0.5
    assert plain.fingerprint() == other.fingerprint()
    assert prepared_folder(plain)[0] == prepared_folder(other)[0]
    with pytest.raises(InputError, match=r"data\.max_bad_share"):
        spec_of(tmp_path, source, data__max_bad_share=1.5)


def test_samples_do_not_depend_on_what_is_lost_between_them(tmp_path: Path) -> None:
    good = ['{"text": "document %d"}' % number for number in range(50)]  # noqa: UP031
    shards = []
    for name, rows in (("a", good), ("b", [*good[:9], "{broken", "", *good[9:]])):
        (tmp_path / name).mkdir()
        shards += shards_of(spec_of(tmp_path / name, json_lines(tmp_path / name / "x.jsonl", *rows)))[1]
    assert shards[0].sha256 == shards[1].sha256


def test_a_shard_that_is_missing_says_what_to_do(tmp_path: Path) -> None:
    folder, (shard,) = shards_of(spec_of(tmp_path, json_lines(tmp_path / "a.jsonl", '{"text": "a few words"}')))
    fields: dict[str, Any] = {
        "name": "x", "recipe": {}, "recipe_sha256": "", "context": 8, "vocabulary": 257, "document_id": 0,
        "tokenizer_sha256": "", "rows": 9, "tokens": 1, "quarantined": 0, "rows_per_group": 8,
    }  # fmt: skip
    prepared = Prepared(folder, Manifest(**fields, shards=[shard]))
    prepared.check_files()
    Path((folder / shard.file).path).write_bytes(b"")
    with pytest.raises(InputError, match=rf"has 0 bytes instead of \d+; delete {folder} and prepare again"):
        prepared.check_files()


def test_a_unit_of_several_files_names_the_file_of_each_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x y z"}\n{broken\n')
    folder, (shard,) = shards_of(spec_of(tmp_path, {"path": str(tmp_path / "*.jsonl"), "format": "jsonl"}))
    assert shard.balance == Balance(documents=2, lost={"row": 2})
    listed = read_lines(folder / "quarantine/0-00000.jsonl")
    assert [Path(one.source).name for one in listed] == ["a.jsonl", "b.jsonl"]


def test_a_plan_counts_alike_and_says_at_which_limit_preparing_would_stop(tmp_path: Path) -> None:
    rows = ['{"text": "a few words"}'] * 4 + ["", '{"text": " "}'] + ['{"body": "x"}'] * 6
    source = json_lines(tmp_path / "a.jsonl", *rows)
    found = survey(spec_of(tmp_path, source))
    assert (found.counts.documents, found.counts.bad_rows) == (4, 6)
    assert found.sources[0].bad.startswith(f"{tmp_path}/a.jsonl, line 7: no field 'text'")
    for changes, said in (
        ({"data__max_bad_rows": 5}, "more than data.max_bad_rows of 5: prepare would stop; the first: "),
        ({}, "a larger part of a source than data.max_bad_share of 0.5: prepare would stop; the first: "),
        ({"data__max_bad_share": 0.6}, "bad rows the first: "),
    ):
        page = foundray.plan(write_spec(tmp_path, small_spec(tmp_path, tmp_path / "runs", data__sources=[source], **changes)))
        assert said in " ".join(page.table().split())
    json_lines(tmp_path / "a.jsonl", *rows[4:])
    with pytest.raises(InputError, match=r"6 rows of .* cannot be used and none can: no field 'text'"):
        survey(spec_of(tmp_path, source))


def test_a_document_that_turns_out_to_be_of_no_use_is_taken_back(tmp_path: Path) -> None:
    sources = spec_of(tmp_path, {"path": str(tmp_path / "*.txt")})
    for name, text in (("a", "good"), ("b", "b\u00e9d"), ("c", "fine")):
        (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    folder, _, (unit,) = prepared_folder(sources)
    intake = Intake(unit, sources.data.sources[0], NO_LIMIT, folder)
    documents = list(intake.usable(lambda file: read_documents(file, sources.data.sources[0])))
    intake.reject(documents[1], "the tokenizer fails on it")
    assert intake.tally.balance == Balance(documents=2, lost={"document": 1})
    assert intake.text_bytes == 8
    (listed,) = [Line.model_validate_json(line) for line in intake.listed.getvalue().splitlines()]
    assert (Path(listed.source).name, listed.position, listed.reason) == ("b.txt", "byte 0", "the tokenizer fails on it")


def test_prepared_data_that_are_found_again_say_what_is_quarantined_and_what_was_left_out(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, json_lines(tmp_path / "a.jsonl", '{"text": "a few words"}'))
    folder, (shard,) = shards_of(spec)
    fields: dict[str, Any] = {
        "name": "x", "recipe": {}, "recipe_sha256": "", "context": 32, "vocabulary": 257, "document_id": 0,
        "tokenizer_sha256": "", "rows": 1, "tokens": 11, "quarantined": 7, "rows_per_group": 8,
    }  # fmt: skip
    notes = [line(f"taken: {column}; left out: t", "header", 0, "column", f"/x/{column}.csv") for column in "aabcde"]
    lines = [line("damaged", "row 3", 7), *notes]
    balance = Balance(documents=1, lost={"row": 7}, notes=len(notes))
    (folder / "quarantine.jsonl").write_text("".join(one.to_json() for one in lines))
    (folder / "manifest.json").write_text(Manifest(**fields, shards=[shard], balances=[balance]).model_dump_json())
    said: list[str] = []
    prepare(spec, said.append)
    place = folder / "quarantine.jsonl"
    assert said[-5:] == [
        f"data: 1 document, 11 tokens, 1 sample, 7 rows quarantined, 6 notes (list: {place}, "
        f"`foundray quarantine {folder}` shows it), already prepared in {folder}",
        "data: taken: a; left out: t (/x/a.csv, header and 1 more)",
        "data: taken: b; left out: t (/x/b.csv, header)",
        "data: taken: c; left out: t (/x/c.csv, header)",
        f"data: 2 other notes: `foundray quarantine {folder}` shows them",
    ]
