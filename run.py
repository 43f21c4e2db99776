"""The Long Range Arena suite: train and measure sequence models, and compare them.

python run.py [VERB] [--flag=value ...]

run          train a grid of cells and print the leaderboard (the default verb)
prepare      make the tasks' data ready, and say what was done
bench        speed and memory alone, without accuracy
status       what is done, running, failed and left in a results folder
retry        run its failed cells again
leaderboard  write the tables, the page and the figures of folders of results
show         print one cell's record
compare      print two models side by side, with the test of their difference
list         tasks | models | protocols

python run.py VERB --help shows a verb's flags.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from absl import flags

if TYPE_CHECKING:
    from lra.hosts import Job
    from lra.launch import How

_STARTED = time.monotonic()


def _grid_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_list("tasks", [], "Tasks, or all; empty: the protocol's own.", flag_values=f)
    flags.DEFINE_list("models", [], "Models, or all; empty: the protocol's own.", flag_values=f)
    flags.DEFINE_list("lengths", [], "Sequence lengths in tokens; empty: each task's own.", flag_values=f)
    flags.DEFINE_string("protocol", "quick", "How cells are run: see `list protocols`.", flag_values=f)
    flags.DEFINE_multi_string("set", [], "A recipe's field: --set optimizer.learning_rate=0.01", flag_values=f)


def _data_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "source",
        "auto",
        "Where data comes from: auto, generate, tfds, download, or a folder or archive.",
        flag_values=f,
    )
    flags.DEFINE_string("source_dir", None, "Folder of data of yours that auto and tfds look into.", flag_values=f)
    flags.DEFINE_bool("allow_unverified", False, "Take copies whose checksum is not the published one.", flag_values=f)
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=f)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that prepare data.", 1, flag_values=f)


def _run_flags(f: flags.FlagValues) -> None:
    _grid_flags(f)
    _data_flags(f)
    _output_flags(f)
    flags.DEFINE_list("seeds", [], "Training seeds; empty: the protocol's own.", flag_values=f)
    flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "What cells run on.", flag_values=f)
    flags.DEFINE_bool("dry_run", False, "Only print the cells and their cost in steps.", flag_values=f)
    flags.DEFINE_bool("rerun", False, "Run finished cells again, from their first step.", flag_values=f)
    flags.DEFINE_enum(
        "precision", None, ["auto", "float32", "bfloat16"], "Type of activations; same as --set train.precision=….",
        flag_values=f,
    )  # fmt: skip
    flags.DEFINE_enum(
        "vmap_seeds", "auto", ["auto", "on", "off"],
        "Train a cell's seeds as one program; auto: on accelerators, where steps are small.", flag_values=f,
    )  # fmt: skip
    flags.DEFINE_integer("devices", 1, "Local devices that share each cell's batch.", 1, flag_values=f)
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where several hosts train each cell together.", flag_values=f
    )
    flags.DEFINE_integer("processes", None, "How many processes do; empty: as Slurm says.", 1, flag_values=f)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0; empty: as Slurm says.", 0, flag_values=f)
    flags.DEFINE_float("wait_minutes", 10.0, "Minutes to wait for the other processes.", 0.0, flag_values=f)
    flags.DEFINE_enum(
        "stream", "auto", ["auto", "on", "off"],
        "Send batches from the host; auto: where the data do not fit on the device.", flag_values=f,
    )  # fmt: skip
    flags.DEFINE_enum("launcher", "local", ["local", "slurm", "ray"], "What starts cells.", flag_values=f)
    flags.DEFINE_string("ray_address", None, "A Ray cluster; empty: one on this machine alone.", flag_values=f)
    flags.DEFINE_multi_string("slurm", [], "submitit's parameter: --slurm slurm_partition=gpu", flag_values=f)
    flags.DEFINE_integer(
        "jobs", None, "Cells at once; empty: one for each (--devices) GPUs. On a CPU they share its cores; more cells "
        "than GPUs share these, which spoils their speeds and nothing else.", 1,
        flag_values=f,
    )  # fmt: skip
    flags.DEFINE_float("checkpoint_minutes", 5.0, "Minutes between checkpoints.", 0.0, flag_values=f)
    flags.DEFINE_float(
        "max_minutes", None, "Minutes after which a cell saves and stops; the next run goes on.", 0.0, flag_values=f
    )
    _total_flag(f)
    flags.DEFINE_float(
        "stall_minutes", None, "Minutes without progress after which a cell is stopped: `timeout`.", 0.0, flag_values=f
    )
    flags.DEFINE_bool("tensorboard", False, "Write event files while training.", flag_values=f)
    flags.DEFINE_string("wandb", None, "Weights & Biases project to log to while training.", flag_values=f)
    flags.DEFINE_bool("profile", False, "Write a JAX trace of one chunk of steps per cell.", flag_values=f)


def _total_flag(f: flags.FlagValues) -> None:
    flags.DEFINE_float(
        "total_minutes", None, "Minutes after which the run ends: cells save, the next run goes on.", 0.0, flag_values=f
    )


def _prepare_flags(f: flags.FlagValues) -> None:
    _grid_flags(f)
    _data_flags(f)
    flags.DEFINE_string("preview", None, "Folder for a page of samples of each task (PNG).", flag_values=f)


def _list_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_bool("details", False, "tasks: what is prepared. models: papers, costs, options.", flag_values=f)
    flags.DEFINE_string("data", "data", "Folder of the data cache.", flag_values=f)


def _sources(f: flags.FlagValues) -> dict[str, Any]:
    """Where data come from and how they are made, for `grid.prepared`."""
    folder = Path(f.source_dir).resolve() if f.source_dir else None
    more = {"source_dir": folder, "allow_unverified": f.allow_unverified}
    return {"source": f.source, "workers": f.workers, **more}


def _bench_flags(f: flags.FlagValues) -> None:
    _grid_flags(f)
    _output_flags(f)
    flags.DEFINE_string("data", "data", "Folder of the compilation cache.", flag_values=f)
    flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu", "tpu"], "What cells run on.", flag_values=f)
    flags.DEFINE_bool("rerun", False, "Measure finished cells again.", flag_values=f)
    f.set_default("protocol", "efficiency_quick")
    flags.DEFINE_integer("batch", None, "Batch: short for --set train.batch.", 1, flag_values=f)
    flags.DEFINE_bool("max_batch", False, "Find the largest batch that fits, and measure at it.", flag_values=f)
    flags.DEFINE_float("memory_limit", None, "Most GiB a program may plan: more is `oom`.", flag_values=f)
    flags.DEFINE_float("timeout", 10.0, "Minutes after which a cell is stopped: `timeout`.", flag_values=f)
    flags.DEFINE_integer(
        "jobs", 1, "Cells that are made ready and compiled at once; they are timed one by one, alone.", 1, flag_values=f
    )
    _total_flag(f)


def _output_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=f)
    flags.DEFINE_string("out", "leaderboard", "Folder of the tables.", flag_values=f)


def _status_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_string("results", "results", "Folder of the records.", flag_values=f)


def _retry_flags(f: flags.FlagValues) -> None:
    _status_flags(f)
    flags.DEFINE_bool("failed", False, "Cells that failed.", flag_values=f)
    flags.DEFINE_bool("timeout", False, "Cells that were stopped for taking too long.", flag_values=f)
    flags.DEFINE_bool("oom", False, "Cells that ran out of memory.", flag_values=f)
    flags.DEFINE_bool("diverged", False, "Cells whose loss was no number.", flag_values=f)
    flags.DEFINE_bool("interrupted", False, "Cells that were stopped and have saved.", flag_values=f)


def _folder_flags(f: flags.FlagValues) -> None:
    flags.DEFINE_list("results", ["results"], "Folders of records; several are merged.", flag_values=f)


def _choice_flags(f: flags.FlagValues) -> None:
    from lra.tidy import METRICS

    _folder_flags(f)
    flags.DEFINE_list("tasks", [], "Only these tasks.", flag_values=f)
    flags.DEFINE_list("protocol", [], "Only these protocols.", flag_values=f)
    flags.DEFINE_string("accelerator", "", "Only accelerators whose name contains this.", flag_values=f)
    flags.DEFINE_enum("metric", "test_best", list(METRICS), "Which accuracy.", flag_values=f)


def _leaderboard_flags(f: flags.FlagValues) -> None:
    _choice_flags(f)
    flags.DEFINE_list("models", [], "Only these models; without options: with any.", flag_values=f)
    flags.DEFINE_string("sort", "average", "Order: average, model, parameters, a task or task@length.", flag_values=f)
    flags.DEFINE_string("out", "leaderboard", "Folder of the tables, the page and the figures.", flag_values=f)
    flags.DEFINE_bool("plots", True, "Draw the figures too (PNG, SVG and PDF).", flag_values=f)


def _integers(name: str, words: list[str]) -> list[int]:
    from lra.recipe import UsageError

    try:
        return [int(word) for word in words]
    except ValueError:
        raise UsageError(f"--{name} takes whole numbers, not '{','.join(words)}'") from None


def run(f: flags.FlagValues, rest: list[str]) -> int:
    """Trains a grid and prints the leaderboard."""
    return _train(f)


def _train(f: flags.FlagValues, again: set[str] | None = None) -> int:
    """Trains a grid, or those of its cells whose keys are to be run again, and prints the leaderboard."""
    from lra import follower, grid, launch, on_ray, trackers
    from lra.leader import Leader

    job = _job(f)
    protocol = grid.protocol_named(f.protocol)
    seeds = _integers("seeds", f.seeds)
    settings = [*f["set"].value, *([f"train.precision={f.precision}"] if f.precision else [])]
    plans = grid.plans(protocol, f.tasks, f.models, _integers("lengths", f.lengths), seeds, settings)
    if f.dry_run:
        if any(p.model.options or ":" in p.model.name for p in plans):
            launch.probe(f.device, [p.model for p in plans])
        for p in plans:
            t = p.recipe.train
            tokens = t.steps * t.batch * p.length
            print(f"{p.task} × {p.model}, length {p.length:,}, seed {p.seeds[0]}: {t.steps:,} steps of {t.batch} "
                  f"({tokens:.2g} tokens)")  # fmt: skip
        print(f"{len(plans)} cells, {sum(p.recipe.train.steps for p in plans):,} steps")
        return 0
    trackers.check({"tensorboard": f.tensorboard, "wandb": f.wandb})
    results, data = _results(f), Path(f.data)
    how = launch.How(
        results=results, data=data, device=f.device, devices=f.devices, stream=f.stream,
        checkpoint_minutes=f.checkpoint_minutes, max_minutes=f.max_minutes, stall_minutes=f.stall_minutes,
        deadline=_deadline(f),
        profile=f.profile, fresh=f.rerun, tensorboard=f.tensorboard, wandb=f.wandb,
        repeat=again is not None,
    )  # fmt: skip
    if f.launcher == "slurm":
        return _to_slurm(f, plans, results)
    if f.launcher == "ray":
        launch.probe("cpu", [p.model for p in plans])  # what is wrong with a model is told before there is a cluster
        how = dataclasses.replace(how, data=data.resolve(), origin=launch.origin())
        with on_ray.Cluster(f.ray_address, how) as cluster:
            cells = cluster.cells(plans, f.vmap_seeds, _sources(f))
            return _run_cells(f, cells, how, again, cluster.slots(f.jobs), cluster.run)
    if job is None:
        return _here(f, plans, how, again)
    commit, env = launch.commit(), launch.environment(f.device)
    if job.process:
        follower.Follower(job, commit, data, results, env, _line).run()
        return 0
    with Leader(job, commit, _line) as leader:
        code = _here(f, plans, dataclasses.replace(how, leader=leader), again)
        leader.done()
    return code


def _here(f: flags.FlagValues, plans: list[Any], how: How, again: set[str] | None) -> int:
    """Trains a grid on this machine, and on those that follow its leader."""
    from lra import grid, launch, slots

    processes = how.leader.job.processes if how.leader else 1
    device, typed = launch.probe(f.device, [p.model for p in plans])
    parts, device = slots.divide(device, f.devices, 1 if how.leader else f.jobs)
    plans = grid.together(grid.with_options(plans, typed), f.vmap_seeds, device)
    entries = grid.prepared(plans, data=how.data, report=_line, **_sources(f))
    cells = [grid.cell(p, entries[p], device, f.devices, processes=processes) for p in plans]
    return _run_cells(f, cells, how, again, parts, launch.run_told)


def _run_cells(f: flags.FlagValues, cells: list[Any], how: How, again: set[str] | None, slots: Any, run: Any) -> int:
    from rich.console import Console

    from lra import launch, schedule, sweep, tidy, verbs

    console, accelerator = Console(), cells[0].accelerator
    cells = _keep_or_choose(f, "run", how, cells, again)
    left = cells if how.anew else launch.left(cells, how.results)
    done = sum(launch.finished(how.results, cell) for cell in cells) if left is not cells else 0
    told = f", {done} already done (--rerun repeats them)" if done else ""
    console.print(f"{len(cells)} cells on {accelerator}{told}", highlight=False)
    counts = schedule.run_cells(left, how, console, slots, run)
    sweep.sweep(cells, how.results)
    if counts.get("interrupted"):
        console.print(f"{counts['interrupted']} interrupted: the same command goes on with them", highlight=False)
    return verbs.leaderboard([how.results], Path(f.out), tidy.EVERYTHING, plots=False)


def _job(f: flags.FlagValues) -> Job | None:
    """The job over several hosts that the flags ask for."""
    from lra import hosts
    from lra.recipe import UsageError

    job = hosts.job(f.coordinator, f.processes, f.process, f.wait_minutes, os.environ)
    if job and f.launcher != "local":
        raise UsageError(f"--coordinator starts cells itself: it does not go with --launcher={f.launcher}")
    if job and (f.jobs or 1) > 1:
        raise UsageError(f"--coordinator trains one cell at a time: it does not go with --jobs={f.jobs}")
    return job


def _given(f: flags.FlagValues, *without: str) -> list[str]:
    """The flags that were given, as arguments."""
    given = [f[name].serialize().splitlines() for name in f if f[name].present and name not in without]
    return [argument for lines in given for argument in lines]


def _keep_or_choose(f: flags.FlagValues, verb: str, how: How, cells: list[Any], again: set[str] | None) -> list[Any]:
    """The cells, once it is kept that they were asked for; or those with the keys that are to be run again."""
    from lra import grids, launch

    if again is not None:
        return [cell for cell in cells if cell.key in again]
    # Slurm may have said which process this is, and not a flag.
    job = how.leader.job if how.leader else None
    which = [f"--processes={job.processes}", f"--process={job.process}"] if job else []
    try:
        grids.save(how.results, verb, [*_given(f, "results", "rerun"), *which], cells)
    except OSError as error:
        raise launch.cannot_write(how.results, error) from None
    return cells


def _to_slurm(f: flags.FlagValues, plans: list[Any], results: Path) -> int:
    """Prepares the data here and leaves the cells to Slurm."""
    from lra import cluster, grid, launch

    launch.probe("cpu", [p.model for p in plans])
    given = _given(f, "launcher", "slurm", "ray_address", "jobs", "results", "out", "data", "source_dir")
    given += [f"--data={Path(f.data).resolve()}"]
    given += [f"--source_dir={Path(f.source_dir).resolve()}"] if f.source_dir else []
    lines = cluster.commands(plans, f.vmap_seeds == "on", given)
    settings = cluster.settings(f.slurm) | ({} if f.jobs is None else {"slurm_array_parallelism": f.jobs})
    grid.prepared(plans, data=Path(f.data), report=_line, **_sources(f))
    places = [f"--results={results.resolve()}", f"--out={Path(f.out).resolve()}"]
    jobs = cluster.submit([[*line, *places] for line in lines], results / "slurm", settings)
    told = f"python run.py status --results={results} tells how far they are"
    print(f"{len(jobs)} jobs: {jobs[0].job_id} to {jobs[-1].job_id}; {told}")
    return 0


def status(f: flags.FlagValues, rest: list[str]) -> int:
    """Prints which cells of the runs on a results folder are done, running, failed and left, and for how long yet."""
    from lra import grids

    rows, line = grids.status(Path(f.results))
    print(f"{grids.table(rows)}\n\n{line}")
    return 0


def retry(f: flags.FlagValues, rest: list[str]) -> int:
    """Runs cells of earlier runs and benches again that ended as the flags say, from their checkpoints."""
    from lra import grids
    from lra.recipe import UsageError

    statuses = [name for name in grids.AGAIN if f[name].value]
    if not statuses:
        raise UsageError(f"retry takes one or more of {', '.join(f'--{name}' for name in grids.AGAIN)}")
    commands = grids.again(Path(f.results), statuses)
    verbs = {"run": (_train, _run_flags), "bench": (_bench, _bench_flags)}
    for verb, arguments, keys in commands:
        act, define = verbs[verb]
        values = flags.FlagValues()
        define(values)
        values([f"run.py {verb}", *arguments, f"--results={f.results}"])
        act(values, keys)
    if not commands:
        print(f"nothing to retry in {f.results}")
    return 0


def prepare(f: flags.FlagValues, rest: list[str]) -> int:
    """Puts the data of a grid into the cache; a task whose data can't be had is told and the others go on."""
    from lra import grid
    from lra.text import one_line
    from tasks.cache import describe
    from tasks.preview import preview
    from tasks.task import DataError

    plans = grid.plans(
        grid.protocol_named(f.protocol), f.tasks, ["transformer"], _integers("lengths", f.lengths), [0], f["set"].value
    )
    made, missing = [], []
    for plan in plans:
        try:
            entry = grid.prepared([plan], data=Path(f.data), report=_line, **_sources(f))[plan]
        except DataError as error:
            missing.append(str(error) if str(error).startswith(plan.task) else f"{plan.task}: {error}")
            continue
        made.append(entry)
        told = describe(entry)
        counts = " / ".join(f"{told['counts'][split]:,}" for split in ("train", "validation", "test"))
        print(f"{plan.task}, length {plan.length:,}: {counts} examples, {told['source']}, in {entry}")
        for note in told["notes"]:
            print(f"  {note}")
    if f.preview:
        for page in preview(made, Path(f.preview)):
            print(page)
    for line in missing:
        print(f"run.py prepare: {one_line(line)}", file=sys.stderr)
    return 2 if missing else 0


def bench(f: flags.FlagValues, rest: list[str]) -> int:
    """Measures speed and memory on random tokens of the tasks' shapes; writes efficiency.csv and plots."""
    return _bench(f)


def _bench(f: flags.FlagValues, again: set[str] | None = None) -> int:
    """Measures a grid, or those of its cells whose keys are to be run again."""
    from rich.console import Console

    from lra import efficiency, grid, launch, schedule, slots, sweep
    from lra.recipe import UsageError
    from lra.text import one_line

    console = Console()
    settings = [*f["set"].value, *([f"train.batch={f.batch}"] if f.batch else [])]
    lengths = _integers("lengths", f.lengths)
    plans = grid.plans(grid.protocol_named(f.protocol), f.tasks, f.models, lengths, [0], settings)
    for name in ("timeout", "memory_limit"):
        if f[name].value is not None and not 0 < f[name].value < 1e8:
            raise UsageError(f"--{name}={f[name].value:g} is not above 0 and below 100,000,000")
    bounds: dict[str, Any] = {"memory_limit_bytes": int(f.memory_limit * 2**30)} if f.memory_limit else {}
    bounds |= {"max_batch": True} if f.max_batch else {}
    results = _results(f)
    device, typed = launch.probe(f.device, [p.model for p in plans])
    cells = [grid.cell(plan, None, device, bounds=bounds) for plan in grid.with_options(plans, typed)]
    how = launch.How(
        results=results, data=Path(f.data), device=f.device, timeout_minutes=f.timeout, fresh=f.rerun,
        repeat=again is not None, deadline=_deadline(f), turns=results / "turns" if f.jobs > 1 else None,
    )  # fmt: skip
    cells = _keep_or_choose(f, "bench", how, cells, again)
    left = cells if how.anew else [cell for cell in cells if not launch.finished(results, cell, f.timeout)]
    schedule.run_cells(left, how, console, slots.in_turns(f.jobs))
    sweep.sweep(cells, results)
    try:
        text, problems = efficiency.write([results], Path(f.out))
    except OSError as error:
        raise UsageError(f"cannot write --out={f.out}: {error.strerror}") from None
    for problem in problems:
        print(f"run.py bench: {one_line(problem)}", file=sys.stderr)
    print(f"\n{text}\n{f.out}/efficiency.csv, {f.out}/plots")
    return 0


def _deadline(f: flags.FlagValues) -> float | None:
    """When the run is to end, by `time.monotonic`."""
    return None if f.total_minutes is None else _STARTED + 60 * f.total_minutes


def _results(f: flags.FlagValues) -> Path:
    from lra.recipe import UsageError
    from tasks.files import make_folder

    results = Path(f.results)
    try:
        make_folder(results)
    except OSError as error:
        raise UsageError(f"cannot write --results={results}: {error.strerror}") from None
    return results


def leaderboard(f: flags.FlagValues, rest: list[str]) -> int:
    """Writes the tables, the page and the figures of results folders and prints the leaderboard."""
    from lra import verbs

    return verbs.leaderboard(_folders(f), Path(f.out), verbs.choice(f), f.plots)


def show(f: flags.FlagValues, rest: list[str]) -> int:
    """Prints one record readably: `show CELL`, a file or any part of its name or key that fits only one."""
    from lra import verbs

    return verbs.show(_folders(f), rest)


def compare(f: flags.FlagValues, rest: list[str]) -> int:
    """Prints two models side by side, task by task, with the test of the difference: `compare A B`."""
    from lra import verbs

    return verbs.compare(_folders(f), rest, verbs.choice(f))


def _folders(f: flags.FlagValues) -> list[Path]:
    return [Path(name) for name in f.results]


def list_(f: flags.FlagValues, rest: list[str]) -> int:
    """Prints what there is to choose from."""
    from configs import PROTOCOLS
    from lra.recipe import UsageError, nearest
    from models import MIXERS
    from tasks import TASKS

    tables = {
        "tasks": {t.name: f"length {t.length:,}, {t.classes} classes: {t.summary}" for t in TASKS.values()},
        "models": dict(MIXERS),
        "protocols": {p.name: f"{p.summary} (tasks: {', '.join(p.tasks)})" for p in PROTOCOLS.values()},
    }
    if len(rest) != 1:
        raise UsageError(f"list takes one of {', '.join(tables)}")
    if f.details and rest[0] in ("tasks", "models"):
        return _details(f, rest[0])
    if rest[0] not in tables:
        raise UsageError(nearest("list", rest[0], tables))
    width = max(map(len, tables[rest[0]]))
    for name, words in tables[rest[0]].items():
        print(f"{name:{width}}  {words}")
    return 0


def _details(f: flags.FlagValues, what: str) -> int:
    from lra import launch
    from tasks.cache import entries
    from tasks.preview import details

    if what == "tasks":
        found = entries(Path(f.data))
        print("\n\n".join(map(details, found)) or f"Nothing is prepared in {f.data}: see `run.py prepare`.")
        return 0
    for mixer in launch.mixer_details():
        options = ", ".join(f"{name}={value}" for name, value in mixer["options"].items())
        print(f"{mixer['name']}    options: {options or 'none'}\n    parameters: {mixer['parameters']}\n")
        print("\n".join(f"    {line}".rstrip() for line in mixer["text"].splitlines()), end="\n\n")
    return 0


def _line(text: str) -> None:
    print(text, flush=True)


class Interrupt:
    """What Ctrl-C and SIGTERM do: a KeyboardInterrupt, also where a library that is being imported makes it another."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._come)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as where a shell starts a run in the background
            signal.signal(signal.SIGINT, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Runs one command line; returns the exit code."""
    from lra.recipe import UsageError, nearest
    from lra.text import one_line
    from tasks.task import DataError

    verb, rest = (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("run", arguments)
    verbs = {
        "run": (run, _run_flags),
        "prepare": (prepare, _prepare_flags),
        "bench": (bench, _bench_flags),
        "status": (status, _status_flags),
        "retry": (retry, _retry_flags),
        "leaderboard": (leaderboard, _leaderboard_flags),
        "show": (show, _folder_flags),
        "compare": (compare, _choice_flags),
        "list": (list_, _list_flags),
    }
    try:
        if arguments[:1] in (["--help"], ["-h"], ["help"]):
            print((__doc__ or "").strip())
            return 0
        if verb not in verbs:
            raise UsageError(nearest("verb", verb, verbs))
        act, define = verbs[verb]
        values = flags.FlagValues()
        define(values)
        if {"--help", "-h"} & set(rest):
            print(f"python run.py {verb}: {act.__doc__}\n\n{values.get_help()}")
            return 0
        positional = values([f"run.py {verb}", *rest])[1:]
        if positional and verb not in ("list", "show", "compare"):
            raise UsageError(f"{verb} takes flags only, not '{positional[0]}'")
        return act(values, positional)
    except (UsageError, DataError, flags.Error) as error:
        print(f"run.py {one_line(verb)}: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # the system refuses, as where a process may open no more files
        where = f": {error.filename}" if error.filename else ""
        print(f"run.py {one_line(verb)}: {error.strerror or error}{one_line(where)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    interrupt = Interrupt()
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, Exception):
        if not interrupt.came:
            raise
        print(
            "\nStopped. Finished cells and checkpoints are kept: the same command goes on from here.", file=sys.stderr
        )
        sys.exit(130)
