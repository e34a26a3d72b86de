"""Checks of a cluster before a run begins on it: `admission` for jobs, `checkup` for people."""
