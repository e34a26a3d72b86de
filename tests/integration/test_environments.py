"""Machines as operators have them: an unwritable home, a user without a name, folders that are too small or closed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.command import FOUNDRAY, foundray

# Root's own file system is read-only but for /tmp, as in many containers; the user is in no list of users.
SCRIPT = """\
set -e
mount --bind /tmp /tmp
mount -o remount,ro,bind /
mount -t tmpfs -o size=16m none /dev/shm
! touch /written 2> /dev/null
cd {folder}
exec env -i HOME=/ PATH="$PATH" OMP_NUM_THREADS=1 unshare --user --map-user=12345 --map-group=12345 {command}
"""


def inside(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(folder=folder, command=command)
    return subprocess.run(["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, timeout=300)


@pytest.mark.thorough
def test_a_run_needs_no_home_no_user_and_little_shared_memory(spec: Path, tmp_path: Path) -> None:
    if not shutil.which("unshare") or inside(tmp_path, "true").returncode or tmp_path.parts[1] != "tmp":
        pytest.skip("namespaces cannot be made here")
    done = inside(tmp_path, f"{FOUNDRAY} train {spec} --set train.steps=3")
    assert done.returncode == 0, done.stderr
    assert "step 3: validation loss" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TMPDIR", "/proc/none", "keeps its sockets and logs in /proc/none/ray, which cannot be written"),
        ("RAY_TMPDIR", "/tmp/" + "long" * 20, "is too long: Ray's sockets in it"),
    ],
)
def test_what_ray_cannot_write_is_one_sentence(
    variable: str, value: str, said: str, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    refusal = foundray("train", spec).refusal
    assert said in refusal and "set RAY_TMPDIR to a folder of yours" in refusal
