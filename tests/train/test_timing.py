"""What is timed ends when the results have arrived, not when the work has been queued."""

from types import SimpleNamespace

from lra.train import benchmark


def test_a_timed_block_of_training_or_inference_waits_for_its_results(monkeypatch):
    events = []

    def chunk(state, fixed, data):
        events.append("queued")
        return state, "metrics"

    def evaluate(*arguments):
        events.append("queued")
        return "sums"

    def device_get(results):
        events.append(results)
        return results

    monkeypatch.setattr(benchmark.jax, "device_get", device_get)
    monkeypatch.setattr(benchmark, "timed", lambda run, *rest: (run(2), events.append("timed"), [(2, 1.0)])[-1])
    prepared = SimpleNamespace(
        program=SimpleNamespace(fixed=None, other_state=None), data=SimpleNamespace(labels=SimpleNamespace(shape=(4,))),
        state=SimpleNamespace(params=None), chunk=chunk, evaluate=evaluate, length=1, measured=benchmark.Measured(),
    )  # fmt: skip
    benchmark.measure(prepared, lambda progress: None)
    assert events == ["queued", "queued", "metrics", "timed", "queued", "queued", ["sums", "sums"], "timed"]
