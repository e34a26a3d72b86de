"""Whole commands on this machine's cores beside nanoGPT's, for the same tokens: `make bench-laptop NANOGPT=CHECKOUT`.

Both train on the same text, in turn: nanoGPT by its CPU recipe and in a copy of the checkout, Foundray with 8-bit AdamW and
exact sums, and with the workers and threads that a spec without `scale` gets. The small shape is trained and evaluated
as a whole (1,000 iterations, an evaluation every 250 on as many samples as nanoGPT's); of the others a steady step is
measured. Figures are medians over the turns, ratios the medians of the turns' ratios. Both prepare their data before. Nothing
else should run beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from tests.benchmarks import nanogpt
from tests.benchmarks.small_runs import LARGE, MEDIUM, NEVER, SMALL, Record, Shape, Train, listed, machine, prepare, spec_of

from foundray.testing.specs import write_spec


@dataclass(frozen=True)
class Race:
    shape: Shape
    steps: int
    evaluate_every: int | None
    step_bar: float
    """Limit on our steady step, as a multiple of nanoGPT's."""
    whole_bar: float | None = None
    """Limit on the whole command; None if only the step is compared."""


RACES = {
    race.shape.name: race
    for race in (
        Race(SMALL, steps=1000, evaluate_every=250, step_bar=1.2, whole_bar=1.25),
        Race(MEDIUM, steps=300, evaluate_every=None, step_bar=1.2),
        Race(LARGE, steps=50, evaluate_every=None, step_bar=1.05),
    )
}


def row(label: str, ours: list[float], theirs: list[float], bar: float | None, form: str) -> None:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = median(ratios)
    least = f"{min(ratios):.2f} .. {max(ratios):.2f}" if len(ratios) > 1 else ""
    verdict = "" if bar is None else f"at most {bar}: {'met' if ratio <= bar else 'missed'}"
    print(f"  {label:18}{median(ours):>10{form}}{median(theirs):>10{form}}{ratio:>9.2f}{least:>16}  {verdict}", flush=True)


def compare(race: Race, ours: list[Record], theirs: list[nanogpt.Trained]) -> None:
    print(f"\n{race.shape}; {ours[0].workers}")
    print(f"  {'':18}{'ours':>10}{'nanoGPT':>10}{'ratio':>9}{'least .. most':>16}")
    mine, others = ([1e3 * one.step_seconds() for one in ours], [1e3 * one.step_seconds for one in theirs])
    row("steady step, ms", mine, others, race.step_bar, ".1f")
    if race.whole_bar:
        row("whole command, s", [one.seconds for one in ours], [one.seconds for one in theirs], race.whole_bar, ".1f")
        row("validation loss", [one.val_loss for one in ours], [one.val_loss for one in theirs], 1.0, ".4f")
        print(
            f"  where ours went: {listed(ours[-1].parts())}\n  where nanoGPT's went: {listed(theirs[-1].parts())}", flush=True
        )
    else:
        print(f"  parts of our last run: {listed(ours[-1].parts())}", flush=True)


def run(race: Race, folder: Path, copy: Path, options: argparse.Namespace) -> None:
    (at := folder / race.shape.name).mkdir()
    every = race.evaluate_every or NEVER
    written = spec_of(race.shape, options.text.resolve(), at / "runs", race.steps, options.micro_batches, every, options.scale)
    samples = 2 * nanogpt.EVALUATION_BATCHES * race.shape.batch  # nanoGPT looks at the training split too
    spec = write_spec(at, written | {"evaluate": {"sets": {"validation": {"samples": samples}}}})
    prepare(spec)
    ours, theirs = [], []
    for turn in range(options.turns):
        theirs.append(nanogpt.train(copy, race.shape, race.steps, race.evaluate_every))
        ours.append(Train.start(spec, f"turn-{turn}").wait())
    compare(race, ours, theirs)


def scale(written: str) -> dict[str, Any]:
    given = yaml.safe_load(written)
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError(f"{written!r} is no YAML mapping, such as '{{workers: 2}}'")
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="CHECKOUT", help="a checkout of nanoGPT; it is copied")
    parser.add_argument("--text", type=Path, default=Path("data/shakespeare/input.txt"), help="what both learn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each (%(default)s)")
    parser.add_argument("--shape", nargs="+", choices=RACES, default=list(RACES))
    parser.add_argument("--scale", type=scale, metavar="YAML", help="our spec's `scale` section (none)")
    parser.add_argument("--micro-batches", type=int, choices=(1, 2, 4), default=2, help="of our step (%(default)s)")
    options = parser.parse_args()
    if not options.text.is_file():
        parser.error(
            f"there is no file {options.text}: name a text by --text, or run `foundray fetch shakespeare` for this one"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = nanogpt.copied(options.nanogpt, Path(folder), options.text)
        except ValueError as error:
            parser.error(str(error))
        print(machine(), flush=True)
        for name in options.shape:
            run(RACES[name], Path(folder), copy, options)


if __name__ == "__main__":
    sys.exit(main())
