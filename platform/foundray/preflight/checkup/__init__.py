"""A look at a cluster before a run: its nodes, what they reach, and how fast they and the links between them are.

`check` looks at everything, in some seconds to a minute; `unreachable`, in a second or two, at what would stop a run that has
just been asked for. Both find what is to be mended, and say so in sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from foundray.storage import Store

if TYPE_CHECKING:
    from foundray.data.files.files import RawFile
    from foundray.preflight.checkup.report import Checkup
    from foundray.spec import Spec

START_SECONDS = 30.0
"""Longest that a node may take to start a process and answer."""


def check(spec: Spec | None = None, storage: str | None = None, report: Callable[[str], None] = lambda line: None) -> Checkup:
    """Look at the cluster at RAY_ADDRESS, or at this machine alone: as for the spec, where one is given.

    `storage` is looked at in place of the spec's. Raises InputError where there is no cluster, no storage or no source.
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
        report(f"{len(nodes)} node(s): versions and clocks")
        with Probes(nodes) as probes:
            visits.visit_facts(probes, START_SECONDS)
            if url is not None:
                report(f"whether each reaches storage and {len(files)} source(s)")
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
    """A sentence for each place that not every node reaches on which a run may work: storage, and files by their source.

    Needs a connection to Ray. On a cluster of one node there is nothing to ask. Nodes that do not answer in time are passed
    over: a run does without them. Raises InputError where storage cannot be written here.
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
    """The files of each of the spec's sources, by its path. Raises InputError for a source that is not there."""
    from foundray.contract import Values
    from foundray.data.files.files import find_files

    modality = spec.data.modality.build()
    endings = modality.endings if isinstance(modality, Values) else ()
    return {source.path: find_files(source, endings) for source in spec.data.sources}
