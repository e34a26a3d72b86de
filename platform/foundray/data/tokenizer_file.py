"""A tokenizer.json of somebody else's making, or of a run: read, and given the token that opens documents."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as Engine

from foundray import spec
from foundray.data.tokenizer import DOCUMENT, Tokenizer
from foundray.errors import InputError

OPENERS = (DOCUMENT, "<|bos|>", "<|begin_of_text|>", "<s>", "<bos>", "<|endoftext|>", "[CLS]", "</s>", "<eos>")


def load_file(field: spec.Tokenizer) -> Tokenizer:
    """A Hugging Face tokenizer.json. Raises InputError."""
    path = str(field.path)
    engine = read_engine(path, "data.tokenizer.path")
    if field.document_token is not None:
        if engine.token_to_id(field.document_token) is None:
            raise InputError(f"data.tokenizer.document_token: {path} has no token {field.document_token!r}")
        opener = field.document_token
    else:
        opener = next((token for token in OPENERS if engine.token_to_id(token) is not None), DOCUMENT)
        if engine.token_to_id(opener) is None:  # one that is there stays as it is, or a run's own file would become another
            engine.add_special_tokens([opener])
    return Tokenizer(engine, int(engine.token_to_id(opener) or 0))


def read_engine(path: str, given_as: str) -> Engine:
    """The engine in a tokenizer.json, which gets whole texts. Raises InputError, which names what the path was `given_as`."""
    try:
        engine = Engine.from_str(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{given_as}: {path} cannot be read: {error.strerror}") from None
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{given_as}: {path} is not a tokenizer.json: {str(error)[:200]}") from None
    engine.no_truncation()  # some files are saved with it, and would cut documents short
    engine.no_padding()
    return engine
