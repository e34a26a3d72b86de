"""Makes the Grafana dashboards beside this file: `python -m dashboards.make`.

Queries are PromQL over the names in `foundray.training.telemetry.metrics.METRICS`, and Ray's own.
"""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.panels import RECENT, Panel, board, curve, last, number, quantile, rate, share
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import ValueMap, ValueMappingResult

HERE = Path(__file__).parent
AT_WORK = ValueMap(
    options={"0": ValueMappingResult(text="finished", color="blue"), "1": ValueMappingResult(text="at work", color="green")}
)


def run() -> dashboard.Dashboard:
    rows: dict[str, list[Panel]] = {
        "Now": [
            number("State", "Whether a command works on the run.", "none", ("", last("running")))
            .mappings([AT_WORK])
            .no_value("nobody works on it"),
            number("Done", "Steps done, of those in the run.", "percentunit", ("", f"{last('step')} / {last('target_steps')}")),
            number("Training loss", "Of the last step, such as nats per token.", "none", ("", last("loss"))).decimals(4),
            number("Validation loss", "Of the last pass, in the same unit.", "none", ("", last("validation_loss"))).decimals(4),
            number("Throughput", "Positions trained on per second.", "suffix: tokens/s", ("", last("tokens_per_second"))),
            number("Workers", "In the group.", "none", ("", last("workers"))),
            number("Goodput", "Share of all its time in steps that count.", "percentunit", ("", last("goodput"))),
            number("MFU", "Model FLOPs over the hardware's peak, where that is known.", "percentunit", ("", last("mfu"))),
        ],
        "Learning": [
            curve(
                "Loss",
                "Training loss of each step, and the validation loss, such as nats per token.",
                "none",
                ("training", last("loss")),
                ("validation", last("validation_loss")),
                width=12,
            ),
            curve(
                "Bits per byte",
                "Validation loss of text, free of the vocabulary. Only where the loss is the text's own likelihood.",
                "suffix: bits",
                ("validation", last("validation_bits_per_byte")),
                width=12,
            ),
            curve("Gradient norm", "Of the whole gradient, before clipping.", "none", ("norm", last("gradient_norm"))),
            curve("Learning rate", "By the schedule.", "sci", ("rate", last("learning_rate"))),
            curve(
                "Effective rank of features",
                "Of up to 512 validation samples. When it falls to a few, representations collapse.",
                "none",
                ("rank", last("effective_rank")),
            ),
        ],
        "Speed": [
            curve(
                "Where a step's time goes",
                "On rank 0. Waiting for data should be near nothing; copying is the state's, for mirrors and checkpoints.",
                "s",
                ("{{part}}", last("step_seconds", "part")),
                stacked=True,
            ),
            curve(
                "Step time, median and slowest",
                "Quantiles over the last minutes, to the width of the histogram's buckets.",
                "s",
                ("median", quantile(0.5, "step_duration_seconds")),
                ("slowest of twenty", quantile(0.95, "step_duration_seconds")),
            ),
            curve("Tokens per second", "Positions trained on.", "suffix: tokens/s",
                ("in the last step", last("tokens_per_second")), ("on average", rate("tokens")),
            ),
            curve("Samples per second", "Of the last step.", "suffix: samples/s", ("samples", last("samples_per_second"))),
            curve(
                "Model FLOPs utilisation",
                "FLOPs of the model (6 N a token and attention) over the hardware's dense bf16 peak, or the spec's peak_flops.",
                "percentunit",
                ("MFU", last("mfu")),
            ),
            curve("Steps per minute", "Repeated ones included.", "none", ("steps", f"60 * {rate('steps')}")),
        ],
        "Workers": [
            curve(
                "Workers",
                "In the group, and how many the run needs and would take.",
                "none",
                ("in the group", last("workers")),
                ("fewest", last("workers_fewest")),
                ("most", last("workers_most")),
                width=12,
            ),
            curve(
                "Who computes how much",
                "Micro-batches by the worker's rank: a faster one takes more.",
                "percentunit",
                ("worker {{worker}}", f"{rate('micro_batches', 'worker')} / on (run) group_left () {rate('micro_batches')}"),
                stacked=True,
                width=12,
            ),
        ],
        "Safety": [
            curve(
                "Where the run's time goes",
                f"Shares of the last {RECENT}. Only stepping brings the run on: its share is the goodput.",
                "percentunit",
                *((part.replace("_", " "), share(part)) for part in (
                    "stepping", "data_wait", "copying", "evaluating", "repeated", "recovery", "starting", "idle",
                )),
                stacked=True,
            ),
            curve(
                "Since the last step",
                "Above the second line, the run is taken for stalled. The driver looks for news several times per second.",
                "s",
                ("since the last step", last("step_age_seconds")),
                ("stalled after", last("stalled_after_seconds")),
                ("since the driver looked", last("driver_silence_seconds")),
            ),
            curve(
                "Since the last checkpoint",
                "What would be lost with all machines at once. Above the second line, something is wrong with storage.",
                "s",
                ("age", last("checkpoint_age_seconds")),
                ("old after", last("checkpoint_old_after_seconds")),
            ),
            curve(
                "Steps that a lost node would cost",
                "Since the newest state that other nodes' memories mirror; a worker that is alone has no mirror.",
                "none",
                ("mirror", last("mirror_lag_steps")),
            ),
            curve("Steps since the last checkpoint", "What would be done again if all machines were lost.", "none",
                ("steps", f"{last('step')} - {last('checkpoint_step')}"),
            ),
            curve("Time of a checkpoint", "From its start to its completion, beside the steps.", "s",
                ("checkpoint", last("checkpoint_seconds")),
            ),
            curve("Size of a checkpoint", "Of all its shards.", "bytes", ("checkpoint", last("checkpoint_bytes"))),
            curve("Faults", "Since the run began, by kind.", "none", ("{{kind}}", last("faults", "kind"))),
            curve("Groups and repeated steps", "Since the run began, but for clean stops; steps done again.", "none",
                ("groups formed again", last("restarts")), ("steps repeated", last("steps_repeated")),
            ),
            curve(
                "Bad numbers",
                "Micro-batches that were left out since they were not finite, and steps whose loss jumped.",
                "none",
                ("micro-batches left out", last("skipped_micro_batches")),
                ("spikes", last("spikes")),
                ("not finite", last("not_finite")),
            ),
        ],
    }  # fmt: skip
    return board("run", "Foundray: a run", "One run: what it learns, how fast, and how safe it is.", rows, several=False)


def fleet() -> dashboard.Dashboard:
    by_node = "sum by (ip) ({})".format
    rows: dict[str, list[Panel]] = {
        "Runs": [
            curve("Done", "Steps, of those in a run.", "percentunit", ("{{run}}", f"{last('step')} / {last('target_steps')}")),
            curve("Tokens per second", "Of each run.", "suffix: tokens/s", ("{{run}}", rate("tokens")), stacked=True),
            curve("Workers", "Of each run.", "none", ("{{run}}", last("workers")), stacked=True),
            curve("Goodput", "Share of each run's time in steps that count.", "percentunit", ("{{run}}", last("goodput"))),
            curve("MFU", "Of each run whose hardware's peak is known.", "percentunit", ("{{run}}", last("mfu"))),
            curve("Faults", "Of each run since it began, of all kinds.", "none",
                ("{{run}}", f"sum by (run) ({last('faults', 'kind')})"),
            ),
        ],
        "Machines": [
            curve("Nodes", "That Ray has, and that answer Prometheus.", "none",
                ("in the cluster", "sum(ray_cluster_active_nodes)"), ("answering", 'count(count by (ip) (ray_node_cpu_count))'),
            ),
            curve("CPU", "Use by node.", "percent", ("{{ip}}", by_node("ray_node_cpu_utilization"))),
            curve("Main memory", "Part that is used, by node.", "percentunit",
                ("{{ip}}", f"{by_node('ray_node_mem_used')} / {by_node('ray_node_mem_total')}"),
            ),
            curve("GPU", "Use by node and GPU.", "percent",
                ("{{ip}} {{GpuIndex}}", "sum by (ip, GpuIndex) (ray_node_gpus_utilization)"),
            ),
            curve("GPU memory", "Used, by node and GPU.", "decmbytes",
                ("{{ip}} {{GpuIndex}}", "sum by (ip, GpuIndex) (ray_node_gram_used)"),
            ),
            curve("Disk", "Use by node: Ray spills objects there.", "percent",
                ("{{ip}}", by_node("ray_node_disk_utilization_percentage")),
            ),
            curve("Network", "Received by node.", "Bps", ("{{ip}}", by_node("ray_node_network_receive_speed"))),
            curve("Object store", "Shared memory in use by node: parcels of data, and mirrored state under way.", "bytes",
                ("{{NodeAddress}}", "sum by (NodeAddress) (ray_object_store_used_memory)"),
            ),
            curve("Spilled objects", "Moved to disk by node; should be nothing.", "bytes",
                ("{{NodeAddress}}", 'sum by (NodeAddress) (ray_object_store_memory{Location="SPILLED"})'),
            ),
        ],
        "Ray": [
            curve("Actors", "By state. A run has one for each worker, others that hold slots, and helpers.", "none",
                ("{{State}}", "sum by (State) (ray_actors)"),
            ),
            curve("Ray Train's controllers", "By state. Ray Train holds the slots in which workers compute.", "none",
                ("{{ray_train_controller_state}}", "sum by (ray_train_controller_state) (ray_train_controller_state)"),
            ),
            curve("Ray Train's start of workers", "Seconds that starting groups took, in total.", "s",
                ("starts", "sum(ray_train_worker_group_start_total_time_s)"),
            ),
        ],
    }  # fmt: skip
    return board("fleet", "Foundray: the fleet", "All runs, and the machines that they share.", rows, several=True)


def data() -> dashboard.Dashboard:
    wait, tokens = share("data_wait", "stepping|data_wait"), last("source_tokens", "source")
    rows: dict[str, list[Panel]] = {
        "Does data keep up": [
            curve("Waiting for data", f"Share of steps' time, last {RECENT}. Above a fifth, data bound the run.", "percentunit",
                ("waiting", wait),
            ),
            curve("Parcels ready", "Read and not yet taken, at most a few; at zero, workers are as fast as reading.", "none",
                ("parcels", last("parcels_ready")),
            ),
            curve("Workers that wait for data", "When Prometheus asked.", "none", ("workers", last("leases_waiting"))),
            curve("Leases per second", "Given to workers: a few a step and worker.", "none", ("leases", rate("leases"))),
            curve("Ray Data's tasks", "Running now, of all datasets on the cluster.", "none",
                ("{{dataset}}", "sum by (dataset) (ray_data_num_tasks_running)"),
            ),
            curve("Ray Data's failed tasks", "In total; Ray repeats them.", "none",
                ("{{dataset}}", "sum by (dataset) (ray_data_num_tasks_failed)"),
            ),
        ],
        "What is read": [
            curve("Tokens by source", "Positions passed through so far.", "short",
                ("{{source}}", tokens), stacked=True,
            ),
            curve("Mixture", "Each source's part of the positions so far: its weight, in the end.", "percentunit",
                ("{{source}}", f"{tokens} / on (run) group_left () sum by (run) ({tokens})"), stacked=True,
            ),
            curve("Epochs by source", "How often its training split has been shown.", "none",
                ("{{source}}", last("source_epochs", "source")),
            ),
            curve("Rows that could not be used", "By source; quarantine.jsonl of the prepared data says why.", "none",
                ("{{source}}", last("source_quarantined", "source")),
            ),
            curve("Data in shared memory", "Ray Data's blocks, by dataset.", "bytes",
                ("{{dataset}}", "sum by (dataset) (ray_data_current_bytes)"),
            ),
            curve("Data spilled to disk", "By dataset; should be nothing.", "bytes",
                ("{{dataset}}", "sum by (dataset) (ray_data_spilled_bytes)"),
            ),
        ],
    }  # fmt: skip
    return board("data", "Foundray: data", "Whether data keeps up with a run, and what it is.", rows, several=False)


def made() -> dict[str, str]:
    """The dashboards' files and what is in them."""
    boards = {"run.json": run(), "fleet.json": fleet(), "data.json": data()}
    return {name: json.dumps(one.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n" for name, one in boards.items()}


if __name__ == "__main__":
    for name, text in made().items():
        (HERE / name).write_text(text)
