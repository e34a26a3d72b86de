"""The command line: what it shows, what it suggests, what shells complete; and a run that is awaited."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundray.cli import GROUPS, VERBS, _run, parser
from foundray.cli.examples import BEGIN, EXAMPLES
from foundray.runs.facts import facts_of
from foundray.runs.lock import RunLock
from foundray.runs.status import standing
from foundray.testing.records import event_at, step_records
from foundray.testing.runs import run_with_records


def verbs(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all verbs, those inside verbs included."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for made in action.choices.values():
                yield made
                yield from verbs(made)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_alone_it_shows_every_verb_by_purpose(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert _run(arguments) == 0
    except SystemExit as end:  # argparse ends at --help
        assert end.code == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^    ([a-z]+) +\S", shown, re.MULTILINE) == list(VERBS)
    assert all(f"\n{title}:\n" in shown for title in GROUPS) and "foundray init DATA" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_every_verb_has_an_example_that_can_be_read() -> None:
    assert set(EXAMPLES) == set(VERBS)
    for verb, example in EXAMPLES.items():
        words = shlex.split(example.split(">")[0])
        assert words[:2] == ["foundray", verb], example
        parser().parse_args(words[1:])
    for command, _ in BEGIN:
        parser().parse_args(shlex.split(command)[1:])
    for made in verbs(parser()):
        if made.prog.split()[1:] == [made.prog.split()[-1]]:
            assert f"example:\n  {EXAMPLES[made.prog.split()[-1]]}" in made.format_help()


def test_help_names_every_default() -> None:
    for made in verbs(parser()):
        for action in made._actions:
            if action.default not in (None, False, [], "", argparse.SUPPRESS):
                assert "default" in (action.help or ""), f"{made.prog} {action.option_strings}"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("trian x.yaml", "foundray: there is no verb 'trian' (did you mean 'train'?); `foundray` lists them"),
        ("xyzzy", "foundray: there is no verb 'xyzzy'; `foundray` lists them"),
        ("sample x --tokns 3", "foundray: sample does not take --tokns (did you mean '--tokens'?); `foundray sample --help`"),
        ("--json status x", "foundray: --json comes before the verb; flags follow it: foundray status --json ..."),
        ("status x y", "foundray: status does not take y; `foundray status --help` lists what it takes"),
    ],
)
def test_a_near_name_is_suggested(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        _run(command.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith(said) and len(error.splitlines()) == 1


def test_shells_complete_verbs_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["completion", "bash"]) == 0
    (script := tmp_path / "foundray.bash").write_text(capsys.readouterr().out)
    complete = (
        r'source "$1"; COMP_WORDS=("${@:2}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_foundray; echo "${COMPREPLY[@]}"'
    )
    for words, found in {
        ("foundray", "tra"): "train transfer",
        ("foundray", "sample", "--t"): "--tokens --temperature --top-k",
    }.items():
        done = subprocess.run(["bash", "-c", complete, "bash", str(script), *words], capture_output=True, text=True)
        assert sorted(done.stdout.split()) == sorted(found.split()), done.stderr
    assert _run(["completion", "zsh"]) == 0
    zsh = capsys.readouterr().out
    assert zsh.startswith("#compdef foundray")
    assert '":a YAML file:_files"' in zsh and "or its name in runs\\/:_files -/" in zsh, "files for a spec, folders for a run"


def test_watch_waits_for_a_run_that_is_about_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "soon").mkdir()
    (tmp_path / "soon" / "tokenizer.json").write_text("{}")  # the command that makes it has got so far
    began = threading.Timer(0.6, lambda: run_with_records(tmp_path, name="soon"))
    began.start()
    assert _run(["watch", str(tmp_path / "soon")]) == 0
    began.join()
    output = capsys.readouterr()
    assert "waiting up to 60 s for" in output.err and "soon" in output.out
    start = time.monotonic()
    assert _run(["watch", str(tmp_path / "never"), "--wait", "0.3"]) == 2
    assert 0.3 <= time.monotonic() - start < 30
    assert "the run is not begun, or has another name" in capsys.readouterr().err


def test_status_says_how_much_time_is_left(tmp_path: Path) -> None:
    """At the pace of the present group: with more workers, steps before them do not count."""
    events = [event_at(0, "command"), event_at(0.5, "workers_started", step=0, workers=1)]
    later = event_at(31, "workers_started", step=3, workers=3)
    run = run_with_records(
        tmp_path, [*events, later], step_records(1, 3, 1, 10.0) + step_records(4, 9, 32, 2.0), train__steps=20
    )
    assert "left" not in standing(run), "nothing runs it"
    with RunLock(run.folder, lambda line: None):
        assert run.facts().seconds_left == pytest.approx(22.0)
        assert "left      about 22 s at the pace of the last steps" in standing(run)
        assert facts_of(run.folder, run.spec(), events).seconds_left is None
