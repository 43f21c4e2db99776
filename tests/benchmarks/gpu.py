"""The suite on a GPU, in the time there is: is it right, how fast is it, what does it reach.

    python -m tests.benchmarks.gpu --minutes=9 --results=results/gpu/h200 --pack=out light bench train

- `light`: every mixer and attention kernel against the CPU in float32 (tests/benchmarks/first_light.py); a run that is
  killed (kill -9) and goes on to the same bits; a cell that runs out of memory, and the next one.
- `bench`: speed, memory, energy and MFU of the efficiency protocols, the most wanted first.
- `train`: cells of the benchmark's own protocol, and small ones that show that a mixer learns.

Each writes its records as it goes and skips what `--results` holds, so the same command goes on another time. Nothing
is begun that cannot end in time; what fails is told, and the others go on. `--toy --device=cpu` tries it all out.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lra.launch.process import environment
from lra.results.provenance import ROOT
from tests.scale.examples import EXAMPLES

PROCESSES = 8
"""Processes that the mixers are shared among."""
ATTENTIONS = (("listops", "bfloat16"), ("narrow", "bfloat16"), ("long", "float32"))

NEWER = (
    "mega", "mega_chunk", "mamba", "retnet", "gla", "lion_d", "lion_s", "mamba2", "deltanet", "gated_deltanet", "hgrn",
    "long_conv", "sgconv", "hyena", "chordmixer",
)  # fmt: skip

BENCHES: dict[str, tuple[tuple[int | str, ...], ...]] = {
    "lra": (
        (8, "--protocol=lra", "--tasks=listops,image", "--models=transformer,fnet,linear_transformer,s5"),
        (2, "--protocol=lra", "--tasks=pathfinder", "--models=transformer,fnet,linear_transformer"),
        (2, "--protocol=lra", "--tasks=text", "--lengths=1000", "--models=transformer,fnet,linear_transformer"),
    ),
    "fnet": (
        (8, "--protocol=fnet", "--lengths=1024,4096,16384", "--models=transformer,fnet,linear_transformer"),
        (3, "--protocol=fnet_bert", "--models=transformer,fnet,transformer_naive"),
    ),
    "kernels": (
        (
            6,
            "--protocol=fnet",
            "--lengths=1024,4096",
            "--models=transformer_naive,fnet:method=fft,transformer:kernel=blocks",
        ),
    ),
    "approximate": ((4, "--protocol=fnet", "--lengths=1024,4096", "--models=local,performer"),),
    "state": ((8, "--protocol=fnet", "--lengths=1024,4096,16384", "--models=s4d,s5,lru,short_conv"),),
    "ssm": (
        (8, "--protocol=ssm", "--tasks=listops,image,text", "--models=s4d,s5,lru"),
        (4, "--protocol=ssm", "--tasks=retrieval,pathfinder,pathx", "--models=s4d,s5,lru"),
    ),
    "newer": (
        (8, "--protocol=fnet", "--lengths=4096", f"--models={','.join(NEWER)}"),
        (8, "--protocol=fnet", "--lengths=1024,16384", f"--models={','.join(NEWER)}"),
    ),
    "all4000": ((12, "--protocol=efficiency", "--lengths=4000", "--models=all"),),
    "all1000": ((12, "--protocol=efficiency", "--lengths=1000", "--models=all"),),
}
"""By name: arguments of `bench`, and how many of its cells are made ready at once. Together about two for each of 16
cores."""


class Training(NamedTuple):
    """A cell to train."""

    task: str
    model: str
    length: int
    seeds: str = "0"
    protocol: str = "lra"
    settings: tuple[str, ...] = ()
    seconds: float | None = None
    """A guess of the time that it takes; None: what `bench` has measured tells."""


_LONGER = ("train.steps=4000", "train.eval_every=500")
_LEARNERS = ("s4d", "s5", "lru", "short_conv", "transformer")
_ROTARY = ("encoder.positions=rotary",)
LRA = (
    Training("listops", "transformer", 2_000),
    Training("listops", "fnet", 2_000),
    Training("listops", "linear_transformer", 2_000),
    Training("image", "fnet", 1_024, "0,1,2"),
    Training("image", "transformer", 1_024, "0,1,2"),
    Training("image", "s5", 1_024, "0,1,2"),
    Training("text", "fnet", 1_000),
    Training("text", "transformer", 1_000),
    Training("text", "linear_transformer", 1_000),
    Training("pathfinder", "transformer", 1_024),
    Training("pathfinder", "linear_transformer", 1_024),
    Training("pathfinder", "fnet", 1_024),
)
"""The benchmark's own protocol."""
LEARNS = (
    *(Training("image", model, 1_024, "0,1,2", "quick", _LONGER, 25) for model in _LEARNERS),
    Training("image", "transformer", 1_024, "0,1,2", "quick", (*_LONGER, *_ROTARY), 25),
    *(Training("pathfinder_short", model, 1_024, "0,1,2", "quick", (), 20) for model in _LEARNERS),
    Training("pathfinder_short", "transformer", 1_024, "0,1,2", "quick", _ROTARY, 20),
)
"""Small models in the encoder that all share: does a mixer learn what its paper says?"""
LISTOPS = (*(training for training in LRA if training.task == "listops"), Training("listops", "s5", 2_000, seconds=240))
TRAININGS = {"learns": LEARNS, "lra": LRA, "listops": LISTOPS}
"""By name, the most wanted first."""
SLOTS = 4
"""Trainings that share the GPU."""
TOY_BENCHES: tuple[tuple[int | str, ...], ...] = (
    (2, "--models=fnet,ff_only", "--lengths=64"),
    (2, "--models=transformer", "--lengths=64"),
)


class Campaign:
    """Folders, device and time limit that all parts share."""

    def __init__(self, args: argparse.Namespace):
        self.results, self.data, self.toy = args.results.resolve(), args.data.resolve(), args.toy
        self.device, self.source = args.device, args.source_dir
        self.benches, self.trainings = args.benches.split(","), args.trainings.split(",")
        self.until = time.monotonic() + 60 * args.minutes
        self.light = self.results / "first_light"
        self.light.mkdir(parents=True, exist_ok=True)
        self.turns, self.bench_until = self.results / "turns", args.bench_until
        self.lock = threading.Lock()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def say(self, text: str) -> None:
        with self.lock:
            print(f"[{self.left:5.0f} s left] {text}", flush=True)

    def command(self, verb: str, *arguments: str, results: Path | None = None) -> list[str]:
        """A command of the suite."""
        where = results or self.results
        places = [f"--results={where}", f"--out={where / 'leaderboard'}", f"--device={self.device}"]
        return [sys.executable, "run.py", verb, *arguments, f"--data={self.data}", *places * (verb != "prepare")]

    def run(self, name: str, command: Sequence[str], **env: str) -> int:
        """Runs a command to its end, or until the time is over; its output goes to a file. Returns its exit code."""
        log = self.light / f"{name}.log"
        started = time.monotonic()
        with open(log, "ab") as file:
            child = subprocess.Popen(command, cwd=ROOT, env=self.env(**env), stdout=file, stderr=subprocess.STDOUT)
            try:
                code = child.wait(max(1.0, self.left))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGTERM)
                code = child.wait(30)
        self.say(f"{name}: exit {code} after {time.monotonic() - started:.0f} s")
        return code

    def env(self, **more: str) -> dict[str, str]:
        """As a cell's process has it, but that what is checked finds a CPU too and several share the device."""
        platforms = {"gpu": "cuda,cpu", "cpu": "cpu"}[self.device]
        share = {"JAX_PLATFORMS": platforms, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return environment(self.device) | share | more

    def tell(self, line: dict[str, Any]) -> None:
        """Keeps a result of `light`."""
        with self.lock, open(self.light / "runs.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        self.say(json.dumps(line))


def light(c: Campaign) -> None:
    """Is it right? All checks side by side."""
    together(
        c, [*checks(c), lambda: once(c, "killed and resumed", killed), lambda: once(c, "out of memory", out_of_memory)]
    )
    report(c)


def checks(c: Campaign) -> list[Callable[[], None]]:
    """The comparisons with the CPU that have no result yet. They take turns with what is measured."""
    from models import MIXERS

    names = ["transformer", "fnet", "bigbird"] if c.toy else list(MIXERS)
    names = [name for name in names if name not in checked(c.light)]
    shares = [names[i::PROCESSES] for i in range(min(PROCESSES, len(names)))]
    wanted = [("mixers", f"mixers-{share[0]}", f"--names={','.join(share)}") for share in shares]
    for shape, kind in [("listops", "bfloat16")] if c.toy else ATTENTIONS:
        for what in ("kernels", "tiles") if shape == "listops" and not c.toy else ("kernels",):
            wanted.append((what, f"{what}-{shape}-{kind}", f"--shape={shape}", f"--type={kind}"))

    def check(what: str, name: str, *arguments: str) -> None:
        done, part = c.light / f"{name}.jsonl", c.light / f"{name}.part"
        base = [sys.executable, "-m", "tests.benchmarks.first_light", what, f"--out={part}", f"--turns={c.turns}"]
        if c.run(name, [*base, *["--toy"] * c.toy, *arguments]) == 0:
            part.rename(done)

    return [lambda w=w: check(*w) for w in wanted if not (c.light / f"{w[1]}.jsonl").exists()]  # type: ignore[misc]


def checked(folder: Path) -> set[str]:
    """The mixers that have been compared."""
    lines = [line for file in folder.glob("mixers*.jsonl") for line in file.read_text().splitlines()]
    return {json.loads(line)["name"] for line in lines}


def once(c: Campaign, name: str, check: Callable[[Campaign], None]) -> None:
    """A check that has no good result yet."""
    file = c.light / "runs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not any(line["check"] == name and line["ok"] for line in lines):
        check(c)


def report(c: Campaign) -> None:
    """Counts the failures, and the successes."""
    for file in sorted([*c.light.glob("*.jsonl"), *c.light.glob("*.part")]):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if not line.get("ok"):
                c.say(f"NOT OK, {file.name}: {json.dumps(line)}")
        c.say(f"{file.name}: {sum(bool(line.get('ok')) for line in lines)} of {len(lines)} ok")


def together(c: Campaign, jobs: Sequence[Callable[[], None]]) -> None:
    """Runs all side by side; an error of one is told and stops none."""

    def safe(job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            c.tell({"check": "campaign", "ok": False, "error": f"{type(error).__name__}: {error}"[:500]})

    threads = [threading.Thread(target=safe, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def killed(c: Campaign) -> None:
    """A run that is killed goes on, and ends with the bits of one that was not."""
    steps = "400" if c.toy else "12000"
    models = "--models=ff_only" if c.toy else "--models=transformer,bigbird"
    cells = [
        models, "--set=encoder.dropout=0.1", "--set=encoder.attention_dropout=0.1", f"--set=train.steps={steps}",
        f"--set=train.eval_every={int(steps) // 12}", "--checkpoint_minutes=0", "--jobs=2",
    ]  # fmt: skip
    whole, broken = c.light / "whole", c.light / "broken"
    c.run("whole", c.command("run", *cells, results=whole))
    with open(c.light / "broken.log", "ab") as log:
        command = c.command("run", *cells, results=broken)
        child = subprocess.Popen(command, cwd=ROOT, env=c.env(), stdout=log, stderr=log, start_new_session=True)
        # With two checkpoints a cell is in the middle of its training.
        while child.poll() is None and len(list((broken / "checkpoints").glob("*/[0-9]*"))) < 2 and c.left > 0:
            time.sleep(0.02)
        child.kill()
        child.wait()
    c.run("resumed", c.command("run", *cells, results=broken))
    found = {}
    for folder in (whole, broken):
        records = [json.loads(file.read_text()) for file in sorted((folder / "records").glob("*.json"))]
        found[folder] = [(r["cell"]["model"], r["status"], r["results"], r.get("resumed")) for r in records]
    same = [a[:3] == b[:3] for a, b in zip(found[whole], found[broken], strict=True)]
    c.tell(
        {
            "check": "killed and resumed",
            "models": [line[0] for line in found[whole]],
            "same bits": same,
            "resumed": [line[3] for line in found[broken]],
            "ok": bool(same) and all(same) and any(line[3] for line in found[broken]),
        }
    )


def out_of_memory(c: Campaign) -> None:
    """A cell that does not fit becomes `oom`, and the next one runs."""
    few = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.02"}
    cells = [
        "--models=transformer_naive,ff_only", "--lengths=1024", "--set=train.batch=128", "--set=train.steps=4",
        "--set=train.eval_every=4",
    ]  # fmt: skip
    if c.toy:
        cells = ["--models=ff_only", "--set=train.steps=4", "--set=train.eval_every=4"]
    folder = c.light / "memory"
    c.run("memory", c.command("run", *cells, results=folder), **few)
    records = [json.loads(file.read_text()) for file in (folder / "records").glob("*.json")]
    statuses = {r["cell"]["model"]: [r["status"], r["error"]] for r in records}
    want = ["oom"] * (not c.toy) + ["ok"]
    ok = sorted((status for status, _ in statuses.values()), reverse=True) == want
    c.tell({"check": "out of memory", "statuses": statuses, "ok": ok})


def bench(c: Campaign) -> None:
    """How fast is it? Measurements are made ready side by side, and each is then alone on the device."""
    end = c.bench_until or 20.0

    def measure(i: int, jobs: int, *arguments: str) -> None:
        minutes = (c.left - end) / 60
        if minutes > 0.5:
            c.run(f"bench{i}", c.command("bench", *arguments, f"--jobs={jobs}", f"--total_minutes={minutes}"))

    benches = TOY_BENCHES if c.toy else [bench for name in c.benches for bench in BENCHES[name]]
    measurements = [lambda i=i, a=a: measure(i, *a) for i, a in enumerate(benches)]  # type: ignore[misc]
    together(c, [*measurements, *checks(c), lambda: data(c)])
    report(c)
    sane(c)


def data(c: Campaign) -> None:
    """The data that `train` begins with, made while others measure on the device."""
    if not c.toy:
        source = [f"--source_dir={c.source}"] * bool(c.source)
        for protocol, task, length in dict.fromkeys((t.protocol, t.task, t.length) for t in trainings(c)):
            cell = [f"--tasks={task}", f"--lengths={length}", f"--protocol={protocol}"]
            c.run("prepare", c.command("prepare", *cell, *source))


def sane(c: Campaign) -> None:
    """Whether what a GPU alone can say is there, and can be true."""
    lines = []
    for file in sorted((c.results / "bench").glob("*.json")):
        r = json.loads(file.read_text())
        if r["status"] != "ok":
            lines.append(f"{file.stem}: {r['status']}: {r['error']}")
            continue
        rate, joules = r["train_speed"]["steps_per_second"], r["energy_per_step_joules"]
        watts = rate * joules if joules else None
        peak = r["memory"]["device_peak_bytes"]
        mfu = r["mfu"]
        line = f"{r['cell']['model']} {r['cell']['protocol']} {r['cell']['task']} {r['cell']['length']}: {rate:.4g} /s"
        line += f", inference {r['inference_speed']['steps_per_second']:.4g} /s"
        if c.device == "gpu":
            good = mfu is not None and 0 < mfu < 1 and watts is not None and 50 < watts < 1500 and (peak or 0) > 1e6
            line += f", MFU {100 * (mfu or 0):.1f} %, {watts or 0:.0f} W, {(peak or 0) / 1e9:.2f} GB"
            line += "" if good else "  NOT SANE"
        lines.append(line)
    (c.light / "sane.txt").write_text("\n".join(lines) + "\n")
    c.say(f"{len(lines)} measurements, {sum('NOT SANE' in line for line in lines)} not sane")
    print("\n".join(lines), flush=True)


def train(c: Campaign) -> None:
    """Trains the cells that were asked for: some share the GPU, the most wanted first."""
    wanted = [training for training in trainings(c) if not c.toy and not trained(c, training)]
    planned = time.monotonic()
    """When the GPU will have done all that is begun: large models that share it take as long as one after the other."""

    def next_one() -> Training | None:
        nonlocal planned
        with c.lock:
            while wanted:
                training = wanted.pop(0)
                took, begins = expected(c, training), max(planned, time.monotonic())
                budget = c.until - begins - 60  # to start and compile takes most of a minute
                if took is not None and took <= budget:
                    planned = begins + took / (1 if training.seconds is None else SLOTS)
                    return training
                print(f"not begun: {training}, which takes {took and round(took)} s of {round(budget)}", flush=True)
        return None

    def work() -> None:
        while t := next_one():
            c.say(f"{t} should take {expected(c, t):.0f} s")
            cell = [f"--protocol={t.protocol}", f"--tasks={t.task}", f"--models={t.model}", f"--lengths={t.length}"]
            cell += [f"--seeds={t.seeds}", *(f"--set={setting}" for setting in t.settings)]
            more = [f"--source_dir={c.source}"] * bool(c.source) + [f"--total_minutes={c.left / 60 - 0.4:.2f}"]
            c.run(f"train-{t.task}-{t.model}", c.command("run", *cell, *more, "--jobs=2", "--checkpoint_minutes=60"))

    if c.toy:
        cell = ["--protocol=quick", "--models=ff_only", "--set=train.steps=20", "--set=train.eval_every=10"]
        c.run("train", c.command("run", *cell, "--jobs=2"))
    together(c, [work] * SLOTS)
    for file in sorted((c.results / "records").glob("*.json")):
        r = json.loads(file.read_text())
        rate = (r.get("train_speed") or {}).get("steps_per_second")
        scores = [(s["steps"], s["validation_best"], s["test_best"]) for s in r["results"]]
        print(f"{file.stem}: {r['status']} {r['error']} {rate} steps/s; steps, validation, test: {scores}", flush=True)


def trainings(c: Campaign) -> list[Training]:
    """The trainings that were asked for."""
    return [training for name in c.trainings for training in TRAININGS[name]]


def trained(c: Campaign, t: Training) -> bool:
    """Whether there is a result already."""
    files = (c.results / "records").glob(
        f"{t.task}-{t.model}-L{t.length}-{t.protocol}-s{t.seeds.replace(',', '_')}-*.json"
    )
    records = [json.loads(file.read_text()) for file in files]
    return any(r["status"] == "ok" and sorted(r.get("overrides", [])) == sorted(t.settings) for r in records)


def expected(c: Campaign, t: Training) -> float | None:
    """Seconds that a training takes, by what `bench` has measured; None where it has not."""
    if t.seconds is not None:
        return t.seconds
    for file in (c.results / "bench").glob(f"{t.task}-{t.model}-L{t.length}-{t.protocol}-*.json"):
        r = json.loads(file.read_text())
        if r["status"] != "ok":
            continue
        budget, (_, validation, test) = r["recipe"]["train"], EXAMPLES[t.task]
        batches = budget["steps"] / budget["eval_every"] * math.ceil(validation / budget["batch"])
        batches += 2 * math.ceil(test / budget["batch"])
        training = budget["steps"] / r["train_speed"]["steps_per_second"]
        return float((training + batches / r["inference_speed"]["steps_per_second"]) * len(t.seeds.split(",")))
    return None


def pack(c: Campaign, out: Path) -> None:
    """One archive of records, logs and checks, without checkpoints and figures."""
    left_out = {"checkpoints", "leaderboard", "turns", "leases"}

    def kept(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if set(Path(info.name).parts) & left_out else info

    with tarfile.open(out / "results.tar.gz", "w:gz") as tar:
        tar.add(c.results, arcname=".", filter=kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", choices=["light", "bench", "train"])
    parser.add_argument("--minutes", type=float, required=True, help="after which nothing runs any more")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data cache")
    parser.add_argument("--source_dir", help="folder of data that cannot be generated")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--bench_until", type=float, help="seconds before the end that `bench` leaves to `train`")
    parser.add_argument("--benches", default=",".join(BENCHES), help=f"which of `bench`: {', '.join(BENCHES)}")
    parser.add_argument("--trainings", default="lra", help=f"which of `train`: {', '.join(TRAININGS)}")
    parser.add_argument("--toy", action="store_true", help="small shapes, to try the program on a CPU")
    parser.add_argument("--pack", type=Path, help="folder for one archive of all results")
    args = parser.parse_args()
    c = Campaign(args)
    for phase in args.phases:
        c.say(phase)
        try:
            {"light": light, "bench": bench, "train": train}[phase](c)
        except Exception as error:
            c.tell({"check": phase, "ok": False, "error": f"{type(error).__name__}: {error}"[:500]})
        if args.pack:
            pack(c, args.pack)
    c.say("done")


if __name__ == "__main__":
    main()
