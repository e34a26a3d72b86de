"""A tokenizer.json of somebody else's making, or of a run: read, checked, and given the token that opens documents."""

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
"""Of a tokenizer.json: the largest that are published have 40 MB. Judgement."""
WRITTEN_BY = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes a tokenizer.json"
POINTER = b"version https://git-lfs"


def load_file(field: spec.TokenizerConfig) -> Tokenizer:
    """A Hugging Face tokenizer.json. Raises InputError."""
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
    """What a tokenizer.json contributes to the recipe of prepared data. Raises InputError.

    The opener is named if earlier data, for which any token could open documents, would have another.
    """
    tokenizer = load_file(field)
    ids = tokenizer.engine.get_vocab(with_added_tokens=True)
    opener = next(token for token, number in ids.items() if number == tokenizer.document_id)
    earlier = next((token for token in OPENERS if token in ids), DOCUMENT)
    differs = field.document_token is None and opener != earlier
    return {"sha256": sha256(tokenizer.to_json().encode()), **({"opener": opener} if differs else {})}


def read_engine(path: str, given_as: str) -> Engine:
    """The engine in a tokenizer.json, or in the one in a folder; it gets whole texts, and always cuts them the same way.

    Raises InputError, which names what the path was `given_as`, for what is no tokenizer.json, and for one that would lose
    characters or has ids that no model could hold.
    """
    return _read(path, given_as)[0]


def _read(path: str, given_as: str) -> tuple[Engine, Anatomy]:
    content = _content(path, given_as)
    try:
        engine = calling(Engine.from_str, content.decode("utf-8-sig"))
    except (UnicodeDecodeError, EngineFailed) as error:
        raise InputError(f"{given_as}: {path} is not a tokenizer.json: {_reason(path, content, error)}") from None
    engine.no_truncation()  # some files are saved with it, and would cut documents short
    engine.no_padding()
    if hasattr(engine.model, "dropout"):
        engine.model.dropout = None  # it leaves out merges at random: the same text would give other tokens each time
    parts = Anatomy(engine)
    if fault := parts.fault():
        raise InputError(f"{given_as}: {path} {fault}")
    return engine, parts


def _opener(parts: Anatomy) -> str | None:
    """The file's own: a special token; or Foundray's, which is an ordinary one in the files of runs on bytes or characters."""
    able = (token for token in OPENERS if parts.special.get(token) or token == DOCUMENT)
    return next((token for token in able if parts.unfit_to_open(token) is None), None)


def _named_opener(parts: Anatomy, path: str, token: str) -> str:
    if fault := parts.unfit_to_open(token):
        able = [one for one, special in parts.special.items() if special and parts.unfit_to_open(one) is None]
        right = f"it has the special tokens {', '.join(map(repr, able[:5]))}" if able else "leave it out, and one is added"
        raise InputError(f"data.tokenizer.document_token: {path} {fault}; {right}")
    return token


def _content(path: str, given_as: str) -> bytes:
    try:
        return _of_url(path) if "://" in path else _of_path(Path(path))
    except (OSError, ValueError) as error:  # a path that holds a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{given_as}: {path} cannot be read: {reason}") from None
    except InputError as error:
        raise InputError(f"{given_as}: {error}") from None


def _of_url(url: str) -> bytes:
    file = Store.at(url)
    return (file / "tokenizer.json" if file.info().type == fs.FileType.Directory else file).read_bytes()


def _of_path(path: Path) -> bytes:
    if path.is_dir():
        if not (path / "tokenizer.json").exists():
            raise InputError(f"{path} is a folder without a tokenizer.json; {WRITTEN_BY}")
        path = path / "tokenizer.json"
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST_BYTES):
        raise InputError(f"{path} is not a tokenizer.json: it is no file, or one of more than {MOST_BYTES >> 20} MiB")
    return path.read_bytes()


def _reason(path: str, content: bytes, error: Exception) -> str:
    """What the file is instead, and what would be right."""
    if content.startswith(POINTER):
        return "it is Git LFS's pointer to one; `git lfs pull` fetches the file itself"
    beside = Path(path).parent / "tokenizer.json"
    right = f"{beside} lies beside it" if beside.is_file() and beside != Path(path) else WRITTEN_BY
    if not content.strip():
        return f"it is empty; {right}"
    if isinstance(error, UnicodeDecodeError) or b"\0" in content:
        return f"it is binary{', a SentencePiece model' if path.endswith(('.model', '.spm')) else ''}; {right}"
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return f"it is no JSON ({error}); {right}"
    if not isinstance(fields, dict):
        return f"its JSON is no object with the fields `version` and `model`; {right}"
    if "model" not in fields:
        if fields and all(isinstance(value, int) for value in fields.values()):
            return f"it is a vocabulary alone, without the rules that cut text; {right}"
        has = f", but {', '.join(list(fields)[:5])}" if fields else ""
        return f"it has no field `model`{has}; {right}"
    library = f"the tokenizers library {version('tokenizers')}"
    return f"{library} cannot read it ({error}): save it with this version, or install a newer one"
