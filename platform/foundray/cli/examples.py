"""Commands that the help texts show: how to begin, and one for each verb."""

from __future__ import annotations

BEGIN = (
    ("foundray init DATA", "looks at your files, and writes a spec"),
    ("foundray train SPEC", "trains; continues where it stopped"),
    ("foundray watch RUN", "in another terminal: live"),
    ("foundray report RUN", "everything on one page"),
    ("foundray export RUN model", "for Hugging Face's classes"),
)
"""(command, what it does) of a first run."""
EXAMPLES = {
    "audit": "foundray audit shakespeare",
    "branch": "foundray branch shakespeare --step 1000 --set schedule.decay=0.5 --set name=other-decay",
    "cluster": "foundray cluster up --local --nodes 3",
    "completion": "foundray completion bash > ~/.local/share/bash-completion/completions/foundray",
    "coordcheck": "foundray coordcheck spec.yaml --widths 64 128 256",
    "doctor": "foundray doctor",
    "embed": "foundray embed shakespeare data/mine vectors --normalise",
    "evaluate": "foundray evaluate shakespeare --task items.jsonl",
    "export": "foundray export shakespeare model --step best",
    "extend": "foundray extend shakespeare --steps 4000",
    "fetch": "foundray fetch shakespeare",
    "forecast": "foundray forecast small medium large --for spec.yaml",
    "init": "foundray init data/mine --minutes 10",
    "logs": "foundray logs shakespeare --follow",
    "plan": "foundray plan spec.yaml --gpus H100:8 --price H100=2.5",
    "prepare": "foundray prepare spec.yaml",
    "probe": "foundray probe handwritten-digits --task examples/handwritten-digits/task.yaml",
    "prune": "foundray prune runs",
    "quarantine": "foundray quarantine shakespeare",
    "report": "foundray report shakespeare other-run --out report.html",
    "resume": "foundray resume shakespeare",
    "runs": "foundray runs",
    "sample": "foundray sample shakespeare --prompt 'O ' --tokens 100",
    "samples": "foundray samples shakespeare --step 12",
    "schema": "foundray schema --markdown",
    "search": "foundray search vectors 'a storm at sea' --top 3",
    "status": "foundray status shakespeare",
    "stop": "foundray stop shakespeare",
    "submit": "foundray submit spec.yaml --cluster http://head:8265 --driver worker",
    "train": "foundray train spec.yaml --set train.steps=500",
    "transfer": "foundray transfer spec.yaml --widths 64 128 --rates 1e-3 2e-3 4e-3",
    "tune": "foundray tune spec.yaml",
    "watch": "foundray watch shakespeare",
}
"""By verb."""
