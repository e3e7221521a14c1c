"""A training loop whose every number depends on all state that a checkpoint must have."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn


class Data:
    """Batches in an order that is drawn, with a place in it."""

    def __init__(self) -> None:
        self.order = torch.randperm(64).tolist()
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.at = state["order"], state["at"]

    def batch(self) -> torch.Tensor:
        if self.at == len(self.order):
            self.order, self.at = torch.randperm(64).tolist(), 0
        number = self.order[self.at]
        self.at += 1
        return torch.linspace(-1, 1, 8 * 16).view(8, 16) * (number + 1) / 64


class Loop:
    """A model with dropout, an optimizer with moments, a scheduler, and draws from every generator."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.2), nn.Tanh(), nn.BatchNorm1d(32), nn.Linear(32, 16)).to(dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, amsgrad=True)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=3e-2, total_steps=200)
        self.scaler = torch.amp.GradScaler("cpu")
        self.dataloader = Data()
        self.loss = float("nan")

    def components(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "dataloader": self.dataloader,
            "rng": True,
        }

    def step(self) -> None:
        noise = random.random() + float(np.random.rand()) + torch.rand(()).item()
        batch = self.dataloader.batch().to(next(self.model.parameters()).dtype)
        loss = (self.model(batch) - batch * noise).float().pow(2).mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.loss = loss.item()

    def bits(self) -> bytes:
        """Every bit of weights, buffers and moments."""
        tensors = [*self.model.state_dict().values()]
        for state in self.optimizer.state_dict()["state"].values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return b"".join(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors)
