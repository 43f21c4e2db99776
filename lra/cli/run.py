"""The verbs that run cells: run, bench, retry."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence, Set
from pathlib import Path

from rich.console import Console

from lra.cli import flags, parsing, report
from lra.cli.arguments import BenchArguments, GridArguments, ReportArguments, RetryArguments, RunArguments
from lra.cli.output import print_line, print_problem
from lra.errors import UsageError, write_error
from lra.grid import expand, names, prepared
from lra.grid.cell import Cell, Plan, unique
from lra.grid.spec import RunOptions
from lra.launch import local, process, ray_driver, scheduler, slurm
from lra.launch.multihost import host_group
from lra.launch.multihost_follower import Follower
from lra.launch.multihost_leader import Leader
from lra.results import provenance, runs
from lra.results.folder import cannot_write, clean_up, count_finished, is_finished, unfinished
from tasks.io.files import make_folder

FAILED = 1
"""Exit code of a run in which a cell ended without a result: it failed, or took too long."""


def run(args: RunArguments, wanted: Set[runs.Request] | None = None) -> int:
    """Trains a grid and prints the leaderboard. Exit code 1 if a cell failed or took too long."""
    # With `wanted`, only these cells run: those that `retry` has chosen.
    group = host_group(args.coordinator, args.processes, args.process, args.wait_minutes, os.environ)
    if group and args.launcher != "local":
        raise UsageError(f"--coordinator starts cells itself: it cannot be combined with --launcher={args.launcher}")
    if group and (args.jobs or 1) > 1:
        raise UsageError(f"--coordinator trains one cell at a time: it cannot be combined with --jobs={args.jobs}")
    plans, options = _plans(args.grid), args.options
    if args.dry_run:
        return _dry_run(plans, options.device)
    _make_results(options.results)
    if args.launcher == "slurm":
        return _submit_to_slurm(args, plans)
    if args.launcher == "ray":
        process.probe("cpu", [plan.model for plan in plans])  # reports wrong models before the cluster starts
        options = dataclasses.replace(options, data=options.data.resolve(), origin=provenance.current_origin())
        with ray_driver.Cluster(args.ray_address, options) as cluster:
            cells = _save_run(args, cluster.cells(plans), wanted)
            return _run_cells(args, options, cells, wanted, cluster.slots(args.jobs), cluster.run_cell)
    if group is None:
        return _run_here(args, plans, wanted)
    commit, env = provenance.commit(), process.environment(options.device)
    if group.process:
        Follower(group, commit, options.data, options.results, env, print_line).run()
        return 0
    with Leader(group, commit, print_line) as leader:
        code = _run_here(args, plans, wanted, leader)
        leader.finish()
    return code


def _plans(grid: GridArguments) -> list[Plan]:
    protocol = names.find_protocol(grid.protocol)
    return expand.make_plans(protocol, grid.tasks, grid.models, grid.lengths, grid.seeds, grid.settings, grid.sweep)


def _dry_run(plans: Sequence[Plan], device: str) -> int:
    """Prints the cells of a grid and their cost in steps."""
    if any(plan.model.options or ":" in plan.model.name for plan in plans):
        process.probe(device, [plan.model for plan in plans])
    trials = list(dict.fromkeys(trial for plan in plans for trial in expand.trial_plans(plan)))
    for plan in [*trials, *plans]:
        train = plan.recipe.train
        tokens = train.steps * train.batch * plan.length
        cost = f"{train.steps:,} steps of {train.batch} ({tokens:.2g} tokens)"
        cost = "the best trial's test" if plan.continues else cost
        settings = f", trial {' '.join(plan.trial)}" if plan.trial else ""
        print(f"{plan.task} × {plan.model}, length {plan.length:,}, seed {plan.seeds[0]}{settings}: {cost}")
    steps = sum(plan.recipe.train.steps for plan in [*trials, *plans] if not plan.continues)
    tuned = f" and {len(trials)} trials" if trials else ""
    print(f"{len(plans)} cells{tuned}, {steps:,} steps")
    return 0


def _run_here(
    args: RunArguments, plans: Sequence[Plan], wanted: Set[runs.Request] | None, leader: Leader | None = None
) -> int:
    """Trains a grid on this machine, together with the processes that follow `leader`."""
    options = args.options
    device, mixers = process.probe(options.device, [plan.model for plan in plans])
    slots, device = scheduler.divide_device(device, options.devices, 1 if leader else args.jobs)
    processes = leader.group.processes if leader else 1
    cells = expand.make_cells(plans, device, mixers, options, print_line, processes)
    # Saved as flags, since they may have come from Slurm's environment.
    group_flags = [f"--processes={processes}", f"--process={leader.group.process}"] if leader else []
    cells = _save_run(args, cells, wanted, group_flags)
    return _run_cells(args, options, cells, wanted, slots, functools.partial(local.run_cell, leader=leader))


def _save_run(
    args: RunArguments | BenchArguments,
    cells: list[Cell],
    wanted: Set[runs.Request] | None,
    extra_flags: Sequence[str] = (),
) -> list[Cell]:
    """Saves the request of the cells in the results folder; returns the cells that are `wanted`, None: all."""
    results = args.options.results
    verb = "bench" if isinstance(args, BenchArguments) else "run"
    command = dict.fromkeys([*_flags_without(args, "results", "rerun"), *extra_flags])
    try:
        runs.save(results, verb, list(command), cells)
    except OSError as error:
        raise cannot_write(results, error) from None
    return [cell for cell in cells if wanted is None or wanted & {*map(runs.request_of, (*cell.trials, cell))}]


def _flags_without(args: RunArguments | BenchArguments, *names: str) -> list[str]:
    """The flags on the command line, without those named."""
    return [argument for name, argument in args.given if name not in names]


def _run_cells(
    args: RunArguments,
    options: RunOptions,
    cells: list[Cell],
    wanted: Set[runs.Request] | None,
    slots: Sequence[scheduler.Slot],
    run_cell: scheduler.RunCell,
) -> int:
    """Runs the unfinished cells, cleans up and prints the leaderboard."""
    console = Console()
    pending = _pending(options, cells, wanted)
    done, other = (0, 0) if options.reruns_finished else count_finished(options.results, cells)
    other_note = f", {other} of them before their mixer's code was changed" if other else ""
    note = f", {done} already done{other_note} (--rerun repeats them)" if done else ""
    accelerator = cells[0].accelerator if cells else "this machine"
    trials = len(unique(trial for cell in cells for trial in cell.trials))
    tuned = f", tuned by {trials} trials," if trials else ""
    console.print(f"{len(cells)} cells{tuned} on {accelerator}{note}", highlight=False, soft_wrap=True)
    counts = scheduler.run_cells(pending, options, console, slots, run_cell)
    clean_up(cells, options.results)
    if counts.get("interrupted"):
        console.print(f"{counts['interrupted']} interrupted: the same command continues them", highlight=False)
    if not report.write_tables(ReportArguments((options.results,), out=args.out, plots=False)):
        console.print("no records yet: no tables are written", highlight=False)
    return FAILED if counts.get("failed") or counts.get("timeout") else 0


def _pending(options: RunOptions, cells: Sequence[Cell], wanted: Set[runs.Request] | None) -> list[Cell]:
    """The cells to run, and before each the trials that it needs."""
    if not options.reruns_finished:
        return unfinished(cells, options.results)
    pending: list[Cell] = []
    for cell in cells:
        for trial in cell.trials:
            again = options.fresh or (wanted is not None and runs.request_of(trial) in wanted)
            pending += [trial] if again or not is_finished(options.results, trial) else []
        pending.append(cell)
    return unique(pending)


def _submit_to_slurm(args: RunArguments, plans: Sequence[Plan]) -> int:
    """Prepares the data on this machine and submits one Slurm job per cell."""
    options = args.options
    process.probe("cpu", [plan.model for plan in plans])
    replaced = ("tasks", "models", "lengths", "seeds", "jobs", "results", "out", "data", "source_dir")
    command_flags = _flags_without(args, "launcher", "slurm", "ray_address", *replaced)
    command_flags += [f"--data={options.data.resolve()}"]
    assert options.sources
    command_flags += [f"--source_dir={options.sources.source_dir}"] if options.sources.source_dir else []
    lines = slurm.build_commands(plans, options.vmap_seeds == "on", command_flags)
    settings = slurm.parse_settings(args.slurm) | ({} if args.jobs is None else {"slurm_array_parallelism": args.jobs})
    prepared.report_data(prepared.prepare_data(plans, options.data, options.sources, print_line), print_line)
    folders = [f"--results={options.results.resolve()}", f"--out={args.out.resolve()}"]
    jobs = slurm.submit([[*line, *folders] for line in lines], options.results / "slurm", settings)
    note = f"python run.py status --results={options.results} shows their progress"
    print(f"{len(jobs)} jobs: {jobs[0].job_id} to {jobs[-1].job_id}; {note}")
    return 0


def bench(args: BenchArguments, wanted: Set[runs.Request] | None = None) -> int:
    """Measures speed and memory on random tokens; writes efficiency.csv and plots. Exit code 1 if a cell failed."""
    from lra.report import write  # pandas takes a second to import

    options = args.options
    plans = _plans(args.grid)
    _make_results(options.results)
    device, mixers = process.probe(options.device, [plan.model for plan in plans])
    cells = _save_run(args, expand.make_cells(plans, device, mixers, options, print_line), wanted)
    pending = cells
    if not options.reruns_finished:
        pending = [cell for cell in cells if not is_finished(options.results, cell, options.timeout_minutes)]
    counts = scheduler.run_cells(pending, options, Console(), scheduler.measurement_slots(args.jobs))
    clean_up(cells, options.results)
    try:
        text, problems = write.write_efficiency([options.results], args.out)
    except OSError as error:
        raise write_error(f"--out={args.out}", error) from None
    for problem in problems:
        print_problem("bench", problem)
    print(
        f"\n{text}\n{args.out}/efficiency.csv, {args.out}/plots"
        if text
        else "no measurements yet: no tables are written"
    )
    return FAILED if counts.get("failed") else 0


def retry(args: RetryArguments) -> int:
    """Runs cells again that ended as the flags say, from their checkpoints. Exit code 1 if one fails again."""
    code = 0
    (results,) = report.find_results((args.results,))
    commands = runs.retry_commands(results, args.statuses)
    for verb, arguments, wanted in commands:
        program, arguments = f"run.py {verb}", [*arguments, f"--results={results}"]
        if verb == "bench":
            values, _ = parsing.parse(flags.define_bench, program, arguments)
            code |= bench(flags.bench_arguments(values, repeat=True), wanted)
        else:
            values, _ = parsing.parse(flags.define_run, program, arguments)
            code |= run(flags.run_arguments(values, repeat=True), wanted)
    if not commands:
        print(f"nothing to retry in {results}")
    return code


def _make_results(results: Path) -> None:
    try:
        make_folder(results)
    except OSError as error:
        raise write_error(f"--results={results}", error) from None
