"""Undoes a loss spike: the loop notices it, goes back to the last good checkpoint, and goes on past it with a lower learning rate.

python examples/undo_spike.py [STORE]
"""

import sys
import tempfile

import torch
import tpde

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
target = torch.randn(8, 1)
state = {"step": 0, "best": float("inf")}


def train_step(step: int) -> float:
    """One step on data of which batch 60 is broken, as data is now and then."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
    y = x @ target * (300 if step == 60 else 1)
    loss = torch.nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


skipped: set[int] = set()
with tpde.open(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(), run="spike") as run:
    step = run.resume(model=model, optimizer=optimizer, state=state, rng=True)
    while step < 120:
        if step in skipped:
            step += 1
            continue
        loss = train_step(step)
        if loss > 10 * state["best"] and step > 10:
            good = max(row["step"] for row in run.log() if row["step"] < step)
            print(f"step {step}: a spike, loss {loss:.3f}; back to step {good}")
            skipped.add(step)
            step = run.rewind(good, model=model, optimizer=optimizer, state=state, rng=True)
            continue
        state["best"] = min(state["best"], loss)
        if step % 10 == 0:
            run.save(step, model=model, optimizer=optimizer, state=state, rng=True, metrics={"loss": loss})
            run.flush()
        step += 1
    print(f"step {step - 1}: loss {loss:.4f}, without the spike of {sorted(skipped)}")
