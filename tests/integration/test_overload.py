"""How runs that compute at once share a machine."""

from __future__ import annotations

import logging
import os

import pytest

from foundray.cluster.local_ray import local_ray


@pytest.mark.thorough
def test_openmp_s_threads_sleep_while_they_wait_in_all_of_ray_s_processes(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "to be restored")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with local_ray(1, {"log_to_driver": False, "logging_level": logging.ERROR}) as ray:
        policy = ray.remote(num_cpus=0)(lambda: os.environ.get("OMP_WAIT_POLICY"))
        assert ray.get(policy.remote()) == "PASSIVE"
