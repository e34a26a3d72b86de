"""CoNLL-U: texts from comments or from words, documents, and sentences that are damaged."""

from __future__ import annotations

import pyarrow as pa
import pytest

from foundray.data.formats import conllu
from foundray.data.formats.row import BadRow, Document
from foundray.spec import SourceConfig


def word(number: object, form: str, miscellaneous: str = "_") -> str:
    return f"{number}\t{form}\t_\t_\t_\t_\t_\t_\t_\t{miscellaneous}\n"


def read(content: str | bytes) -> tuple[list[str], list[BadRow]]:
    data = content.encode() if isinstance(content, str) else content
    rows = list(conllu.read(pa.BufferReader(data), "a.conllu", SourceConfig(path="a.conllu", format="conllu")))
    return [row.text for row in rows if isinstance(row, Document)], [row for row in rows if isinstance(row, BadRow)]


HELLO = word(1, "Hello") + word(2, "world", "SpaceAfter=No") + word(3, "!")


def test_sentences_without_a_text_are_their_words() -> None:
    content = (
        "# sent_id = 1\n# text = A text.\n"
        + word(1, "other")
        + "\n# sent_id = 2\n"
        + HELLO
        + "\n# text = Bye.\n"
        + word(1, "x")
    )
    assert read(content) == (["A text.\nHello world!\nBye."], [])
    assert read(content.replace("\n", "\r\n")) == (["A text.\nHello world!\nBye."], [])
    assert read("\ufeff" + HELLO + "\n" + HELLO.rstrip("\n")) == (["Hello world!\nHello world!"], [])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([("1-2", "don't", "SpaceAfter=No"), (1, "do"), (2, "n't"), (3, "!")], "don't!"),
        ([("1-2", "im"), (1, "in", "SpaceAfter=No"), (2, "dem"), (3, "Haus")], "im Haus"),
        ([(1, "a"), ("1.1", "left-out"), (2, "b")], "a b"),
        ([("0.1", "left-out"), (1, "a"), (2, "b", "Gloss=x|SpaceAfter=No|Other=y"), (3, ".")], "a b."),
        ([(1, "a", "SpacesAfter=\\s\\s"), (2, "b", "SpacesAfter=\\r\\n\\t"), (3, "c")], "a  b c"),
        ([(1, "3 000"), (2, "km", "SpacesAfter=\\n\\n")], "3 000 km"),
        ([(1, "_"), (2, "b")], "_ b"),
    ],
)  # fmt: skip
def test_tokens_and_the_spaces_between_them(words: list[tuple[object, ...]], text: str) -> None:
    assert read("".join(word(*one) for one in words)) == ([text], [])  # type: ignore[arg-type]


@pytest.mark.parametrize("comment", ["# text = A text.", "#text=A text.", "# text=A text.", "#  text  = A text."])
def test_ways_to_write_the_comment(comment: str) -> None:
    assert read(f"{comment}\n# text_en = Other.\n{word(1, 'x')}") == (["A text."], [])
    assert read(f"# text_en = Other.\n# text =\n{HELLO}") == (["Hello world!"], [])


def test_documents_are_groups_of_sentences() -> None:
    content = f"# newdoc id = a\n# newpar\n{HELLO}\n# newpar\n# text = Two.\n{HELLO}\n# newdoc\n# text = Three.\n{HELLO}"
    assert read(content) == (["Hello world!\nTwo.", "Three."], [])
    rows = list(conllu.read(pa.BufferReader(content.encode()), "a", SourceConfig(path="a", format="conllu")))
    assert [row.position for row in rows] == ["line 1", "line 13"]


def test_sentences_without_blank_lines_between_them() -> None:
    assert read(HELLO + HELLO) == (["Hello world!\nHello world!"], [])
    assert read(HELLO + "# sent_id = 2\n" + HELLO + "# a remark\n" + word(4, "Yes")) == (["Hello world!\nHello world! Yes"], [])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("1\tHello\t_\n2\tworld\n", "no comment holds its text, and line 5 has 3 tab-separated columns, not 10"),
        ("1 Hello _ _ _ _ _ _ _ _\n", "no comment holds its text, and line 5 has 1 tab-separated column, not 10"),
        (word("x", "Hello"), "no comment holds its text, and line 5 does not start with a number"),
        (word(1, "\0\0\0\0"), "holds NUL bytes, so it is not text"),
        ("\0" * 700 + "\n", "holds NUL bytes, so it is not text"),
        (word(1, "_") + word(2, "_"), conllu.NO_WORDS),
    ],
)
def test_a_damaged_sentence_costs_itself(damage: str, reason: str) -> None:
    texts, bad = read(HELLO + "\n" + damage + "\n" + HELLO)
    assert texts == ["Hello world!\nHello world!"]
    assert bad == [BadRow("line 5", reason, 1, "sentence")]


def test_a_text_is_used_whatever_its_words_are_like() -> None:
    assert read("# text = A text.\n1\tA\t_\n\n" + HELLO) == (["A text.\nHello world!"], [])


def test_bytes_that_are_not_utf_8_cost_their_sentence() -> None:
    texts, (bad,) = read(("# text = caf\xe9 noir\n" + HELLO).encode("latin-1") + ("\n" + HELLO).encode())
    assert (texts, bad.position, bad.unit) == (["Hello world!"], "line 1", "sentence")
    assert "Latin-1" in bad.reason


def test_neighbours_with_the_same_reason_are_one_row() -> None:
    """A hole in a file, or a treebank published without its words."""
    texts, bad = read(HELLO + "\n" + "\0\0\n\n" * 500 + (word(1, "_") + word(2, "_") + "\n") * 700 + HELLO)
    assert texts == ["Hello world!\nHello world!"]
    assert [(row.lost, row.unit) for row in bad] == [(500, "sentence"), (700, "sentence")]
    assert bad[0].position == "line 5 to line 1003"


def test_empty_files() -> None:
    for content in ("", "\n\n", "# a remark\n"):
        assert read(content) == ([], [BadRow("byte 0", "empty", 0, "file")])
