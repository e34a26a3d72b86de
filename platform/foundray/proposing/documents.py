"""Text: its formats and fields, how much it is, and in which scripts; and the tokenizer that suits that.

No language is named. Small libraries that guess one know a closed list: py3langid 0.4 (4.6 MB, 3 s to load) calls 315 of
470 Wolof sentences Fulfulde, and is certain of all of them together, because Wolof is not among its languages. Scripts are
facts of Unicode.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from foundray.data.files.files import RawFile
from foundray.data.files.names import bare
from foundray.data.formats import reader
from foundray.data.formats.row import BadRow, Document
from foundray.data.tokenizers.tokenizer import train_bpe
from foundray.errors import InputError
from foundray.proposing.choices import Choice
from foundray.proposing.kinds import Group
from foundray.proposing.parts import Source, sources_of
from foundray.proposing.prefix import measured_bytes, spread, whole_rows
from foundray.proposing.sizes import longest_context
from foundray.proposing.tables import SEEN_ROWS, Columns, columns_of
from foundray.spec import SourceConfig
from foundray.wording.words import count, plural, size

SEEN_FILES, SEEN_BYTES = 12, 2**17
"""Files of a source that are looked at, and bytes of each."""
ARCHIVE_BYTES, MOST_BYTES = 2**20, 2**23
"""Bytes of an archive that are looked at, whose members may be long; and of a file that begins with a longer part."""
LEAST_SAMPLES = 4
"""Samples that a source must have, so that a part of it can be held out: two, and twice that for estimates."""
VOCABULARIES = ((1e6, 512), (4e6, 1024), (2e7, 2048), (2e8, 4096), (2e9, 8192), (2e10, 16384))
"""Entries of a trained vocabulary, up to so many bytes of text; 32,768 beyond. Judgement: rare tokens learn little."""
FEW_CHARACTERS = 300
"""Up to this many different characters, a small text is cut into characters, which need no training."""
SMALL_TEXT = 2e6
"""Bytes up to which text is cut into characters."""
SCRIPTS_SHOWN = 4


def look(place: str, group: Group, gpu: bool) -> Choice:
    """Choose sources, tokenizer and objective. Raises InputError if no text can be read."""
    sources, left = sources_of(place, group)
    sources = [_sampled(source) for source in sources]
    if not any(source.pieces for source in sources):
        why = next((source.bad for source in sources if source.bad), "it is empty")
        raise InputError(f"{place}: no text can be read: {why}")
    sources = [source for source in sources if source.pieces]
    pieces = [piece for source in sources for piece in source.pieces]
    total = sum(source.text_bytes for source in sources)
    tokenizer, vocabulary, each = _tokenizer(pieces, total)
    sources = _large_enough(sources, total / each, left)
    if len(sources) > 1 and (total := sum(source.text_bytes for source in sources)):
        for source in sources:
            source.fields["weight"] = float(f"{max(1e-3, source.text_bytes / total):.2g}")
    found = [f"text: {plural(len(group.files), 'file')} ({group.endings()}), about {size(total)}, {scripts(pieces)}"]
    found += [f"  {one.fields['path']}: {_of_fields(one)}" for one in sources if "field" in one.fields]
    found += [f"  not all of {one.fields['path']} can be read: {one.bad}" for one in sources if one.bad]
    found += left
    code = all(file.format == "code" for file in group.files)
    return Choice(
        modality={}, sources=[source.fields for source in sources], tokenizer=tokenizer, vocabulary=vocabulary,
        objective={"kind": "next_token"}, units=total / each, found=found,
        notes=_notes(tokenizer, each, code),
        then="foundray sample {name} --prompt '…'",
    )  # fmt: skip


def _large_enough(sources: list[Source], tokens: float, left: list[str]) -> list[Source]:
    """The sources that can be split into training and validation; `tokens` are those of all, and `left` takes sentences."""
    least = LEAST_SAMPLES * longest_context(tokens) / tokens * sum(source.text_bytes for source in sources)
    small = [source for source in sources if source.text_bytes < min(least, max(one.text_bytes for one in sources))]
    left += [f"  left out: {one.fields['path']}, {size(one.text_bytes)}, which is too little for a source" for one in small]
    return [source for source in sources if source not in small]


def _notes(tokenizer: dict[str, Any], each: float, code: bool) -> dict[str, str]:
    holes = "fill_in_middle for code, " if code else ""
    return {
        "tokenizer": f"bytes | char | bpe | file (a tokenizer.json); about {each:.1f} bytes per token here",
        "objective": f"or: {holes}masked_token for an encoder, span_corruption; see docs/objectives.md",
        "sources": "documents: file | line | paragraph says what a document of a text file is",
    }


def _of_fields(source: Source) -> str:
    return f"the text is in the field {source.fields['field']!r}"


def _sampled(source: Source) -> Source:
    """Read the beginning of some files, as `prepare` will; estimate how much text all of them hold."""
    seen_stored = seen_text = 0.0
    for file in spread(source.files, SEEN_FILES):
        stored, text = _sample(source, file)
        seen_stored, seen_text = seen_stored + stored, seen_text + text
    whole = sum(file.size for file in source.files)
    source.text_bytes = whole * seen_text / max(1.0, seen_stored)
    return source


def _sample(source: Source, file: RawFile) -> tuple[float, float]:
    """(stored bytes, bytes of text in them) of a file's beginning, whose text is added to the source's."""
    if file.format == "parquet":
        return _of_table(source, file, columns_of(file))
    most = SEEN_BYTES if file.format != "webdataset" else ARCHIVE_BYTES
    stored, texts, bad = _beginning(source, file, most)
    while bad and not texts and most < MOST_BYTES:  # perhaps the first row or member is longer
        most *= 8
        stored, texts, bad = _beginning(source, file, most)
    source.pieces += texts
    source.bad = source.bad or bad
    return stored, sum(len(text.encode(errors="ignore")) for text in texts)


def _beginning(source: Source, file: RawFile, most: int) -> tuple[float, list[str], str]:
    """(stored bytes of up to `most` bytes of content, the texts in them, why the first part that cannot be read cannot)."""
    content, ratio = measured_bytes(file, most)
    if cut := len(content) == most:
        content = whole_rows(content, quoted=file.format == "csv")
    texts, bad, last = list[str](), "", ""
    config = SourceConfig.model_validate({**source.fields, "format": file.format})
    for document in reader(file.format)(pa.PythonFile(pa.BufferReader(content)), bare(file.url), config):
        if isinstance(document, Document):
            texts.append(document.text)
            bad = bad or last
        elif isinstance(document, BadRow) and document.lost:
            last = last or f"{document.reason} ({file.url}, {document.position})"
    # A cut itself damages the last part; without a text, more has to be seen.
    if cut:
        last = "" if texts else last or f"its first {size(most)} hold no text ({file.url})"
    return len(content) / ratio, texts, bad or last


def _of_table(source: Source, file: RawFile, columns: Columns) -> tuple[float, float]:
    values = [str(value) for value in columns.values.get(source.fields["field"], []) if value]
    source.pieces += values
    seen = min(columns.rows, SEEN_ROWS)
    return file.size * seen / max(1.0, columns.rows), sum(len(value.encode(errors="ignore")) for value in values)


def _tokenizer(pieces: list[str], total: float) -> tuple[dict[str, Any], int, float]:
    """(fields of the tokenizer, its vocabulary, bytes per token)."""
    text = sum(len(piece.encode(errors="ignore")) for piece in pieces)
    letters = set("".join(pieces))
    if total <= SMALL_TEXT and len(letters) <= FEW_CHARACTERS:
        return {"kind": "char"}, len(letters) + 2, text / max(1, sum(map(len, pieces)))
    vocabulary = next((entries for most, entries in VOCABULARIES if total <= most), 32768)
    trained = train_bpe(pieces, vocabulary)
    tokens = sum(len(ids) for ids in trained.encode(pieces))
    return {"kind": "bpe", "vocab_size": vocabulary}, vocabulary, text / max(1, tokens)


def scripts(pieces: Sequence[str]) -> str:
    """`Latin 98 %, Greek 2 %`: the scripts of the letters, by their names in Unicode."""
    letters = Counter(character for piece in pieces for character in piece if character.isalpha())
    named = Counter[str]()
    for character, number in letters.items():
        named[_script(character)] += number
    whole = max(1, sum(named.values()))
    shown = [
        f"{name} {number / whole:.0%}".replace("%", " %")
        for name, number in named.most_common(SCRIPTS_SHOWN)
        if number >= 0.005 * whole
    ]
    return ", ".join(shown) if shown else "without letters"


def _script(character: str) -> str:
    word = unicodedata.name(character, "OTHER").split()[0].split("-")[0]
    return {"CJK": "Han", "IDEOGRAPHIC": "Han"}.get(word, word.capitalize())


def look_at_genomes(place: str, group: Group, gpu: bool) -> Choice:
    """Choose for FASTA, which is read as nucleotides. Raises InputError for other sequences."""
    source = _sampled(Source({"path": place, "format": "fasta"}, group.files))
    if not source.pieces:
        other = "; learn from sequences of amino acids as plain text, one per line" if "nucleotide" in source.bad else ""
        raise InputError(f"{place}: no sequence can be read: {source.bad or 'it is empty'}{other}")
    letters = Counter(character for piece in source.pieces for character in piece.upper())
    shares = [f"{letter} {letters[letter] / letters.total():.0%}".replace("%", " %") for letter in "ACGTN" if letters[letter]]
    amount = f"{plural(len(group.files), 'file')} ({group.endings()}), about {count(source.text_bytes)} letters"
    return Choice(
        modality={"kind": "dna"}, sources=[source.fields], objective={"kind": "next_token"}, vocabulary=7,
        units=source.text_bytes, model={"rope_theta": 100.0}, found=[f"genomes: {amount}; {', '.join(shares)}"],
        notes={
            "modality": "half of the samples are read from the other strand",
            "objective": "or: masked_token, for an encoder",
            "model": "a small rope_theta gives short wavelengths: the last few bases matter most",
        },
        then="foundray sample {name} --prompt ACGT",
    )  # fmt: skip
