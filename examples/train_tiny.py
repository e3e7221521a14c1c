"""Trains a small transformer on real text, saves every step, is killed in the middle, and goes on as if it had not been.

Usage: python examples/train_tiny.py STORE [--steps N] [--kill-at STEP]

With --kill-at the training runs in a process of its own that is killed there with SIGKILL, and is started again. The text is the source code
of Python's own library. Takes about a minute on two cores.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import tpde
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, LAYERS, CONTEXT, BATCH = 96, 4, 3, 96, 12


class Block(nn.Module):
    """Causal attention and a small network behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention_in, self.attention_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(0.05), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, time, width]; the same shape comes out."""
        batch, time_steps, _ = x.shape
        q, k, v = self.attention_in(self.norm_1(x)).view(batch, time_steps, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, time_steps, WIDTH))
        return x + self.network(self.norm_2(x))


class Model(nn.Module):
    """A transformer over bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: [batch, time]; gives logits [batch, time, 256]."""
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def text() -> torch.Tensor:
    """Source code, as bytes."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8)


def train(store: str, steps: int) -> None:
    """Trains up to `steps`, from wherever the run in `store` is."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, model = text(), Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with tpde.open(store, run="tiny") as run:
        start = run.resume(model=model, optimizer=optimizer, scheduler=scheduler, rng=True)
        if start:
            print(f"goes on with step {start}", flush=True)
        for step in range(start, steps):
            at = torch.randint(len(data) - CONTEXT - 1, (BATCH,))
            batch = torch.stack([data[i : i + CONTEXT + 1] for i in at]).long()
            loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            saved = run.save(step, model=model, optimizer=optimizer, scheduler=scheduler, rng=True, metrics={"loss": loss})
            if step % 20 == 0 or step == steps - 1:
                print(f"step {step:4}  loss {loss.item():.3f}  the save stalled it for {1e3 * saved.stall_s:.0f} ms", flush=True)
    log = tpde.log("tiny", store=store)
    raw, stored = (sum(row[kind] for row in log) for kind in ("raw_bytes", "stored_bytes"))
    weights = hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in model.parameters())).hexdigest()
    print(f"{len(log)} checkpoints: {raw / 1e6:.0f} MB in {stored / 1e6:.0f} MB, {raw / stored:.1f} times smaller")
    print(f"weights {weights[:16]}")


def killed_and_resumed(store: str, steps: int, kill_at: int) -> None:
    """Trains in a process that is killed once step `kill_at` is stored, then in another one."""
    command = [sys.executable, __file__, store, "--steps", str(steps)]
    with subprocess.Popen(command) as child:
        while child.poll() is None:
            time.sleep(0.1)
            try:
                newest = tpde.log("tiny", 1, store=store)
            except tpde.NotFoundError:
                continue
            if newest and newest[0]["step"] >= kill_at:
                child.send_signal(signal.SIGKILL)
                print(f"killed after step {newest[0]['step']} was stored", flush=True)
                break
    subprocess.run(command, check=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="a path or a URL; a store is made there if there is none")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kill-at", type=int)
    arguments = parser.parse_args()
    if arguments.kill_at is None:
        train(arguments.store, arguments.steps)
    else:
        killed_and_resumed(arguments.store, arguments.steps, arguments.kill_at)


if __name__ == "__main__":
    main()
