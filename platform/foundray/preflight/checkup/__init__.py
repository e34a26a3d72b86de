"""A check of a cluster before a run: its nodes, what they reach, and the speed of nodes and links.

`check` tests everything, in seconds to a minute; `unreachable` tests, in a second or two, what would stop a run that is about
to begin. Both report in sentences what to mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from foundray.storage import Store
from foundray.wording.words import plural

if TYPE_CHECKING:
    from foundray.data.files.files import RawFile
    from foundray.preflight.checkup.report import Checkup
    from foundray.spec import Spec

START_SECONDS = 30.0
"""Longest that a node may take to start a process and answer."""


def check(spec: Spec | None = None, storage: str | None = None, report: Callable[[str], None] = lambda line: None) -> Checkup:
    """Check the cluster at RAY_ADDRESS, or this machine alone; for the spec, if one is given.

    `storage` replaces the spec's. Raises InputError if there is no cluster, no storage or no source.
    """
    from foundray.cluster.connect import connected

    storage = storage or (spec.storage if spec else None)
    url = None if storage is None else Store.at(storage).url
    files = source_files(spec) if spec else {}
    with connected(report):
        from foundray.preflight.checkup import judgement, visits
        from foundray.preflight.checkup.probe import Probe
        from foundray.preflight.checkup.probes import Probes, cluster_nodes
        from foundray.preflight.checkup.report import Checkup

        nodes, here = cluster_nodes(), Probe().facts()
        report(f"{plural(len(nodes), 'node')}: versions and clocks")
        with Probes(nodes) as probes:
            visits.visit_facts(probes, START_SECONDS)
            if url is not None:
                report(f"whether each reaches storage and {plural(len(files), 'source')}")
                visits.visit_storage(probes, url)
                visits.visit_sources(probes, files)
            report("streams between nodes")
            links = visits.visit_links(probes)
            report("matrix products")
            visits.visit_products(probes)
    return Checkup(nodes, links, url, judgement.judged(nodes, links, here, url, spec))


def unreachable(
    storage: str, sources: Mapping[str, Sequence[RawFile]] | None = None, seconds: float = START_SECONDS
) -> list[str]:
    """A sentence for storage and for each source that some working node does not reach.

    Needs a connection to Ray. A cluster of one node needs no check. Nodes that do not answer in time are ignored: a run does
    without them. Raises InputError if storage cannot be written here.
    """
    from foundray.preflight.checkup import judgement, visits
    from foundray.preflight.checkup.probes import Probes, cluster_nodes

    url = Store.at(storage).url
    others = [node for node in cluster_nodes() if node.works and not node.here]
    if not others:
        return []
    with Probes(others) as probes:
        visits.visit_storage(probes, url, seconds)
        visits.visit_sources(probes, sources or {}, seconds)
    return [finding.sentence for finding in (*judgement.storage(others, url), *judgement.sources(others))]


def source_files(spec: Spec) -> dict[str, list[RawFile]]:
    """The files of the spec's sources, by path. Raises InputError for a missing source."""
    from foundray.contract import Values
    from foundray.data.files.files import find_files

    modality = spec.data.modality.build()
    endings = modality.endings if isinstance(modality, Values) else ()
    return {source.path: find_files(source, endings) for source in spec.data.sources}
