"""What saving costs a training loop, beside torch.save, safetensors and torch.distributed.checkpoint, in one run on one machine.

Usage: python benches/python/training_loop.py [--parameters N] [--saves N] [--small-steps N]

The state is that of mixed precision with Adam: bf16 weights, f32 masters, two f32 moments, 14 bytes a parameter, moved by real Adam updates of
made-up gradients. Everything is written to one temporary folder, and every tool's files are counted as they lie there.
"""

import argparse
import gc
import os
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
import tpde

LEARNING_RATE = 1e-5
MATRIX = 2048


class State:
    """Weights, masters and moments of `parameters` parameters, in matrices as models have them."""

    def __init__(self, parameters: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.masters = {
            f"layers.{i}.weight": torch.randn(MATRIX, MATRIX, generator=generator) * 0.02 for i in range(parameters // MATRIX**2)
        }
        self.weights = {name: master.bfloat16() for name, master in self.masters.items()}
        self.first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.second = {name: torch.full_like(master, 1e-12) for name, master in self.masters.items()}
        self.generator = generator

    def step(self) -> None:
        """One update of Adam, with gradients that are noise of another scale in every row."""
        for name, master in self.masters.items():
            gradient = (
                torch.randn(master.shape, generator=self.generator) * torch.rand(MATRIX, 1, generator=self.generator) * 1e-3
            )
            self.first[name].lerp_(gradient, 0.1)
            self.second[name].mul_(0.95).addcmul_(gradient, gradient, value=0.05)
            master.addcdiv_(self.first[name], self.second[name].sqrt().add_(1e-8), value=-LEARNING_RATE)
            self.weights[name].copy_(master)

    def model(self) -> dict[str, torch.Tensor]:
        """What the model has."""
        return self.weights

    def optimizer(self) -> dict[str, dict[str, torch.Tensor]]:
        """What the optimizer has."""
        return {"master": self.masters, "exp_avg": self.first, "exp_avg_sq": self.second}

    def nested(self) -> dict[str, Any]:
        """All of it, as torch.save and DCP take it."""
        return {"model": self.model(), "optimizer": self.optimizer()}

    def flat(self) -> dict[str, torch.Tensor]:
        """All of it, as safetensors takes it."""
        parts = {"model": self.weights, **{f"optimizer.{kind}": part for kind, part in self.optimizer().items()}}
        return {f"{kind}.{name}": tensor for kind, part in parts.items() for name, tensor in part.items()}

    def nbytes(self) -> int:
        """Its bytes."""
        return sum(tensor.nbytes for tensor in self.flat().values())


def memcpy_seconds(state: State, threads: int) -> float:
    """Median time to copy the state into memory that is there and touched, with so many threads."""
    sources = [tensor.view(torch.uint8).numpy().reshape(-1) for tensor in state.flat().values()]
    targets = [np.ones_like(source) for source in sources]
    pieces = [
        (target[at : at + (4 << 20)], source[at : at + (4 << 20)])
        for target, source in zip(targets, sources, strict=True)
        for at in range(0, len(source), 4 << 20)
    ]
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            began = time.perf_counter()
            list(pool.map(lambda piece: np.copyto(*piece), pieces))
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def resident_bytes() -> int:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Peak:
    """The most that this process had in memory between the two ends of a `with`."""

    def __enter__(self) -> "Peak":
        self.most, self._stop = resident_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Work:
    """A training step on one thread: forward, backward and update of a small network."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 512))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.batch = torch.randn(64, 512)

    def seconds(self, until: Callable[[], bool]) -> list[float]:
        """Times of steps, as long as `until` is false."""
        times = []
        while not until():
            began = time.perf_counter()
            loss = (self.model(self.batch) - self.batch).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            times.append(time.perf_counter() - began)
        return times


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have gone by since now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def row(name: str, *values: str) -> None:
    """Prints a row of the table."""
    print(f"| {name:<34} | " + " | ".join(f"{value:>12}" for value in values) + " |", flush=True)


def tpde_saves(state: State, folder: Path, saves: int, copy: float) -> None:
    """Several saves in a row, with a training step that goes on beside them."""
    torch.set_num_threads(1)
    work = Work()
    work.seconds(after(3))
    alone = work.seconds(after(10))
    before = resident_bytes()
    stalls, totals, stored, beside = [], [], [], []
    with Peak() as peak, tpde.open(folder, run="bench", threads=1) as run:
        for step in range(saves):
            if step:
                state.step()
                gc.collect()
            handle = run.save(step, model=state.model(), optimizer=state.optimizer())
            times = work.seconds(handle.done)
            handle.wait()
            stalls.append(handle.stall_s)
            totals.append(handle.seconds)
            stored.append(handle.stored_bytes)
            beside += times
            print(
                f"  save {step}: stall {handle.stall_s:.3f} s ({handle.stall_s / copy:.2f} of a memcpy), committed after "
                f"{handle.seconds:.1f} s, {handle.stored_bytes / 1e6:.1f} MB",
                flush=True,
            )
    size = state.nbytes()
    slower = statistics.median(beside) / statistics.median(alone) - 1
    slower_mean = statistics.fmean(beside) / statistics.fmean(alone) - 1
    print(f"  a training step beside a save: {100 * slower:+.1f} % (median), {100 * slower_mean:+.1f} % (mean)")
    print(f"  extra memory at most: the state {(peak.most - before - size) / 1e6:+.0f} MB")
    began = time.perf_counter()
    with tpde.open(folder, run="bench") as run:
        model: dict[str, Any] = {}
        optimizer: dict[str, Any] = {}
        run.resume(model=model, optimizer=optimizer)
    resumed = time.perf_counter() - began
    assert all(torch.equal(model[name], weight) for name, weight in state.weights.items())
    row("tpde, first save", f"{stalls[0]:.2f} s", f"{totals[0]:.1f} s", f"{stored[0] / 1e6:.0f} MB", "")
    row(
        "tpde, from the second on",
        f"{statistics.median(stalls[1:]):.2f} s",
        f"{statistics.median(totals[1:]):.1f} s",
        f"{statistics.median(stored[1:]) / 1e6:.0f} MB",
        f"{resumed:.1f} s",
    )


def others(state: State, folder: Path) -> None:
    """The other tools, one save and one load each."""

    def measured(name: str, save: Callable[[Path], Any], load: Callable[[Path], Any]) -> None:
        at = folder / name.split(maxsplit=1)[0]
        at.mkdir()
        os.sync()
        began = time.perf_counter()
        wait = save(at)
        stall = time.perf_counter() - began
        if wait is not None:
            wait()
        total = time.perf_counter() - began
        began = time.perf_counter()
        load(at)
        row(name, f"{stall:.2f} s", f"{total:.1f} s", f"{folder_bytes(at) / 1e6:.0f} MB", f"{time.perf_counter() - began:.1f} s")
        shutil.rmtree(at)

    def async_save(at: Path) -> Callable[[], Any]:
        return dcp.async_save(state.nested(), checkpoint_id=at, no_dist=True).result

    def dcp_load(at: Path) -> None:
        empty = State.__new__(State)
        for part in ("weights", "masters", "first", "second"):
            setattr(empty, part, {name: torch.empty_like(tensor) for name, tensor in getattr(state, part).items()})
        dcp.load(empty.nested(), checkpoint_id=at, no_dist=True)

    measured("torch.save", lambda at: torch.save(state.nested(), at / "c.pt"), lambda at: torch.load(at / "c.pt"))
    measured(
        "safetensors.save_file",
        lambda at: safetensors.torch.save_file(state.flat(), at / "c.safetensors"),
        lambda at: safetensors.torch.load_file(at / "c.safetensors"),
    )
    measured("DCP async_save, first", async_save, dcp_load)
    measured("DCP-again async_save, second", async_save, dcp_load)


def small_run(folder: Path, steps: int) -> None:
    """Many saves of consecutive steps of a small network that really trains."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(128, 512), torch.nn.GELU(), torch.nn.Linear(512, 128)).bfloat16()
    masters = [weight.detach().float().requires_grad_() for weight in model.parameters()]
    optimizer = torch.optim.AdamW(masters, lr=1e-4)
    target = torch.randn(128, 128) * 0.1
    raw = 0
    with tpde.open(folder, run="small") as run:
        for step in range(steps):
            x = torch.randn(64, 128)
            loss = (model(x.bfloat16()).float() - x @ target).square().mean()
            loss.backward()
            for master, weight in zip(masters, model.parameters(), strict=True):
                master.grad, weight.grad = weight.grad.float(), None
            optimizer.step()
            with torch.no_grad():
                for master, weight in zip(masters, model.parameters(), strict=True):
                    weight.copy_(master)
            handle = run.save(step, model=model, optimizer=optimizer, master=dict(enumerate(masters)), metrics={"loss": loss})
        handle.wait()
        raw = sum(entry["raw_bytes"] for entry in run.log())
    stored = folder_bytes(folder)
    print(
        f"{steps} consecutive steps of a small run: {raw / 1e6:.1f} MB of copies, {stored / 1e6:.1f} MB stored, {raw / stored:.2f} times smaller"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=200_000_000)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--small-steps", type=int, default=500)
    arguments = parser.parse_args()
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small_run(folder / "small", arguments.small_steps)
        state = State(arguments.parameters)
        state.step()
        print(f"a state of {state.nbytes() / 1e9:.2f} GB; {threads} cores")
        copy = memcpy_seconds(state, threads)
        gc.collect()
        print(f"  a memcpy of it with {threads} threads: {copy:.3f} s")
        row("", "stall", "committed", "stored", "resume")
        row("---", *["---:"] * 4)
        tpde_saves(state, folder / "tpde", arguments.saves, copy)
        torch.set_num_threads(threads)
        others(state, folder)


if __name__ == "__main__":
    main()
