"""Fixtures of the other tests on real Ray."""

from tests.integration.conftest import storage

__all__ = ["storage"]
