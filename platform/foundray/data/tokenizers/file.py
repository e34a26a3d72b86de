"""Loads a tokenizer.json, a third party's or a run's: reads it, checks it, and chooses the token that opens documents."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from pyarrow import fs
from tokenizers import Tokenizer as Engine

from foundray import spec
from foundray.data.tokenizers.checks import Anatomy
from foundray.data.tokenizers.encoding import EngineFailed, calling
from foundray.data.tokenizers.tokenizer import DOCUMENT, Tokenizer
from foundray.errors import InputError
from foundray.storage import Store, sha256

OPENERS = (DOCUMENT, "<|bos|>", "<|begin_of_text|>", "<s>", "<bos>", "<|endoftext|>", "[CLS]", "</s>", "<eos>")
MOST_BYTES = 2**29
"""Largest tokenizer.json; the largest published ones have 40 MB. Judgement."""
WRITTEN_BY = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
POINTER = b"version https://git-lfs"


def load_file(field: spec.TokenizerConfig) -> Tokenizer:
    """Load a Hugging Face tokenizer.json. Raises InputError."""
    path = str(field.path)
    engine, parts = _read(path, "data.tokenizer.path")
    opener = _opener(parts) if field.document_token is None else _named_opener(parts, path, field.document_token)
    if opener is None:
        opener = DOCUMENT
        if opener not in parts.ids:
            engine.add_special_tokens([opener])
        if fault := Anatomy(engine).unfit_to_open(opener):
            raise InputError(
                f"data.tokenizer.path: {path} has no special token that could open documents, and with one added it {fault}: "
                "number its tokens without gaps, or give it a special token and name that in data.tokenizer.document_token"
            )
    return Tokenizer(engine, engine.get_vocab(with_added_tokens=True)[opener])


def recipe_of_file(field: spec.TokenizerConfig) -> dict[str, str]:
    """Part of a tokenizer.json in the recipe of prepared data. Raises InputError.

    It has the opener if data prepared earlier, when any token could open documents, would have another one.
    """
    tokenizer = load_file(field)
    ids = tokenizer.engine.get_vocab(with_added_tokens=True)
    opener = next(token for token, number in ids.items() if number == tokenizer.document_id)
    earlier = next((token for token in OPENERS if token in ids), DOCUMENT)
    differs = field.document_token is None and opener != earlier
    return {"sha256": sha256(tokenizer.to_json().encode()), **({"opener": opener} if differs else {})}


def read_engine(path: str, given_as: str) -> Engine:
    """Read the engine in a tokenizer.json, given by its path or its folder, without truncation, padding or dropout.

    Raises InputError, which begins with `given_as`, for a file that is not a tokenizer.json, and for one that would lose
    characters or has ids too large for any model.
    """
    return _read(path, given_as)[0]


def _read(path: str, given_as: str) -> tuple[Engine, Anatomy]:
    content = _content(path, given_as)
    try:
        engine = calling(Engine.from_str, content.decode("utf-8-sig"))
    except (UnicodeDecodeError, EngineFailed) as error:
        raise InputError(f"{given_as}: {path} is not a tokenizer.json: {_reason(path, content, error)}") from None
    engine.no_truncation()  # saved in some files; it would cut documents short
    engine.no_padding()
    if hasattr(engine.model, "dropout"):
        engine.model.dropout = None  # skips merges at random, so that the same text gives other tokens each time
    parts = Anatomy(engine)
    if fault := parts.fault():
        raise InputError(f"{given_as}: {path} {fault}")
    return engine, parts


def _opener(parts: Anatomy) -> str | None:
    """A special token of the file, or Foundray's own, which is an ordinary token in files of runs on bytes or characters."""
    fitting = (token for token in OPENERS if parts.special.get(token) or token == DOCUMENT)
    return next((token for token in fitting if parts.unfit_to_open(token) is None), None)


def _named_opener(parts: Anatomy, path: str, token: str) -> str:
    if fault := parts.unfit_to_open(token):
        fitting = [one for one, special in parts.special.items() if special and parts.unfit_to_open(one) is None]
        right = f"it has the special tokens {', '.join(map(repr, fitting[:5]))}" if fitting else "without it, one is added"
        raise InputError(f"data.tokenizer.document_token: {path} {fault}; {right}")
    return token


def _content(path: str, given_as: str) -> bytes:
    try:
        return _read_url(path) if "://" in path else _read_path(Path(path))
    except (OSError, ValueError) as error:  # a path that contains a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{given_as}: {path} cannot be read: {reason}") from None
    except InputError as error:
        raise InputError(f"{given_as}: {error}") from None


def _read_url(url: str) -> bytes:
    file = Store.at(url)
    return (file / "tokenizer.json" if file.info().type == fs.FileType.Directory else file).read_bytes()


def _read_path(path: Path) -> bytes:
    if path.is_dir():
        if not (path / "tokenizer.json").exists():
            raise InputError(f"{path} is a folder without a tokenizer.json; {WRITTEN_BY}")
        path = path / "tokenizer.json"
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST_BYTES):
        raise InputError(f"{path} is not a tokenizer.json: it is not a file, or larger than {MOST_BYTES >> 20} MiB")
    return path.read_bytes()


def _reason(path: str, content: bytes, error: Exception) -> str:
    """What the file is instead of a tokenizer.json, and what would be right."""
    if content.startswith(POINTER):
        return "it is a Git LFS pointer; `git lfs pull` fetches the file itself"
    beside = Path(path).parent / "tokenizer.json"
    right = f"{beside} lies beside it" if beside.is_file() and beside != Path(path) else WRITTEN_BY
    if not content.strip():
        return f"it is empty; {right}"
    if isinstance(error, UnicodeDecodeError) or b"\0" in content:
        return f"it is binary{', a SentencePiece model' if path.endswith(('.model', '.spm')) else ''}; {right}"
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return f"it is not JSON ({error}); {right}"
    if not isinstance(fields, dict):
        return f"its JSON is not an object with the fields `version` and `model`; {right}"
    if "model" not in fields:
        if fields and all(isinstance(value, int) for value in fields.values()):
            return f"it is only a vocabulary, without the rules that split text; {right}"
        has = f", but {', '.join(list(fields)[:5])}" if fields else ""
        return f"it has no field `model`{has}; {right}"
    library = f"the tokenizers library {version('tokenizers')}"
    return f"{library} cannot read it ({error}): save it with this version, or install a newer one"
