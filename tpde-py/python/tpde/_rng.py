"""States of the random generators that a training loop draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tpde._arrays import torch_or_none
from tpde._errors import InputError


class GlobalRng:
    """The generators of Python, numpy and torch (CPU) that have no object of their own."""

    def state_dict(self) -> dict[str, Any]:
        """Their states."""
        version, words, gauss = random.getstate()
        state: dict[str, Any] = {
            "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        }
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        state["numpy"] = {"kind": kind, "keys": keys, "position": position, "has_gauss": has_gauss, "cached": cached}
        torch = torch_or_none()
        if torch is not None:
            if torch.cuda.is_initialized():
                raise InputError(
                    "rng: the generators of CUDA devices cannot be saved by this version. "
                    "Pass rng=False and keep torch.cuda.get_rng_state_all() in a component of your own"
                )
            state["torch"] = torch.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes states back that :meth:`state_dict` gave."""
        python = state["python"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        numpy = state["numpy"]
        np.random.set_state((numpy["kind"], numpy["keys"], numpy["position"], numpy["has_gauss"], numpy["cached"]))
        if "torch" in state:
            torch = torch_or_none()
            if torch is None:
                raise InputError("rng: the checkpoint has a state of torch's generator. Import torch before resuming")
            torch.set_rng_state(state["torch"])
