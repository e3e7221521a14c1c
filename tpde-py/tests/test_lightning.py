"""The checkpoint plugin of Lightning's Trainer, against the Trainer."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import need

torch = need("torch")
need("lightning")

import lightning.pytorch as pl
import tpde
import tpde.lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tpde import _commit
from tpde.lightning import TpdeCheckpointIO

pytestmark = [
    # What the frameworks say to each other and to users of many cores.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory.*"),
]

torch.set_num_threads(1)
EPOCHS = 3


def model_of(package: Any, seed: int = 1, **more: Any) -> Any:
    """A small model of one of Lightning's packages."""

    class Net(package.LightningModule):  # type: ignore[misc]
        def __init__(self, width: int = 8, lr: float = 1e-2, **more: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1))

        def training_step(self, batch: Any, number: int) -> Any:
            loss = torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            self.log("val_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def test_step(self, batch: Any, number: int) -> None:
            self.log("test_loss", torch.nn.functional.mse_loss(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)]

    torch.manual_seed(seed)
    return Net(**more)


def data() -> Any:
    draw = torch.Generator().manual_seed(5)
    rows = torch.utils.data.TensorDataset(torch.randn(32, 4, generator=draw), torch.randn(32, 1, generator=draw))
    return torch.utils.data.DataLoader(rows, batch_size=8)


def trainer(folder: Path, plugin: Any, *callbacks: Any, package: Any = pl, **options: Any) -> Any:
    arguments: dict[str, Any] = {
        "max_epochs": EPOCHS, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder, "plugins": [plugin] if plugin else [],
    }  # fmt: skip
    return package.Trainer(callbacks=list(callbacks), **{**arguments, **options})


def saver(folder: Path, **options: Any) -> TpdeCheckpointIO:
    return TpdeCheckpointIO(folder / "store", run="run", **options)


def best_two(folder: Path, **options: Any) -> ModelCheckpoint:
    arguments: dict[str, Any] = {"monitor": "val_loss", "save_top_k": 2, "save_last": True}
    return ModelCheckpoint(folder / "out", **{**arguments, **options})


def bits(model: Any) -> bytes:
    return b"".join(value.detach().numpy().tobytes() for value in model.state_dict().values())


def steps(folder: Path, run: str = "run") -> list[int]:
    """Steps that a run has, oldest first."""
    return [row["step"] for row in reversed(tpde.log(run, store=folder / "store"))]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "out"))


def same(one: Any, other: Any) -> bool:
    """Whether two dicts of Lightning's are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(one) is type(other) and set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Stop(pl.Callback):
    """Ends the training at a step, as an error of the model would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_resume_is_exact(tmp_path: Path, package: str) -> None:
    """Stopped and resumed from the last checkpoint, training reaches the weights that it reaches without, by either package."""
    need(package.split(".", maxsplit=1)[0])
    made = importlib.import_module(package)
    callbacks = importlib.import_module(f"{package}.callbacks")

    class StopHere(made.Callback):  # type: ignore[misc,name-defined]
        on_train_batch_end = Stop.on_train_batch_end
        step = 10

    def keeper(folder: str) -> Any:
        return callbacks.ModelCheckpoint(tmp_path / folder, monitor="val_loss", save_top_k=2, save_last=True)

    whole = model_of(made)
    trainer(tmp_path, None, keeper("plain"), package=made).fit(whole, data(), data())
    with pytest.raises(RuntimeError, match="stopped"):
        trainer(tmp_path, saver(tmp_path), keeper("out"), StopHere(), package=made).fit(model_of(made), data(), data())
    assert steps(tmp_path) == [4, 8]
    # Other weights to begin with: what is not resumed shows.
    resumed = model_of(made, seed=2)
    again = trainer(tmp_path, saver(tmp_path), keeper("out"), package=made)
    again.fit(resumed, data(), data(), ckpt_path="last")
    assert bits(resumed) == bits(whole)
    assert steps(tmp_path) == [4, 8, 12]
    # The state of the optimizer and the schedule, too.
    ours, plain = saver(tmp_path).load_checkpoint(tmp_path / "out" / "last.ckpt"), torch.load(tmp_path / "plain" / "last.ckpt")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step", "hyper_parameters"):
        assert same(ours[key], plain[key]), key


class Recorded(TpdeCheckpointIO):
    """Remembers what it was given."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.given = getattr(self, "given", {})
        self.given[os.fspath(path)] = pickle.loads(pickle.dumps(checkpoint))
        super().save_checkpoint(checkpoint, path, storage_options)


def test_a_path_means_what_was_saved_to_it(tmp_path: Path) -> None:
    """Of several checkpoints of one step, which differ in what callbacks know, each is loaded again by its path."""
    plugin = Recorded(tmp_path / "store", run="run")
    trainer(tmp_path, plugin, best_two(tmp_path)).fit(model_of(pl), data(), data())
    left = [str(tmp_path / "out" / name) for name in names(tmp_path)]
    assert len(left) == 3
    for path in left:
        assert same(tpde.lightning.load(path), plugin.given[path]), path
    # The first `last` knows its own path, which the best of that step did not: the step has two checkpoints, stored once.
    assert steps(tmp_path) == [4, 8, 12]
    assert steps(tmp_path, "run.2") == [4]
    twin = tpde.log("run.2", store=tmp_path / "store")[0]
    assert twin["new_tensors"] < twin["tensors"]


def test_names_are_those_that_lightning_gives(tmp_path: Path) -> None:
    """ModelCheckpoint leaves the same names as without the plugin: the best two, the last, a further version of a name, a link."""
    cases: list[dict[str, Any]] = [
        {},
        {"save_last": "link"},
        {"filename": "same", "save_top_k": 2},
        {"filename": "same", "save_top_k": -1},
        {"monitor": None, "save_top_k": 1},
    ]
    for number, options in enumerate(cases):
        left = []
        for kind in ("plain", "ours"):
            folder = tmp_path / f"{kind}{number}"
            plugin = saver(tmp_path) if kind == "ours" else None
            trainer(folder, plugin, best_two(folder, **options)).fit(model_of(pl), data(), data())
            left.append({name: os.path.islink(folder / "out" / name) for name in names(folder)})
        assert left[0] == left[1], options
        assert all((folder / "out" / name).stat().st_size < 1000 for name in names(folder))


def test_removed_paths_leave_their_checkpoints(tmp_path: Path) -> None:
    """What save_top_k removes is the path; the store has every checkpoint, and a reference loads it."""
    plugin = saver(tmp_path)
    made = trainer(tmp_path, plugin, best_two(tmp_path, save_top_k=1, save_last=None))
    made.fit(model_of(pl), data(), data())
    assert len(names(tmp_path)) == 1
    assert steps(tmp_path) == [4, 8, 12]
    for step in (4, 8, 12):
        assert plugin.load_checkpoint(f"tpde:{step}")["global_step"] == step
    assert plugin.load_checkpoint("tpde:latest")["global_step"] == 12
    assert plugin.load_checkpoint("tpde:run~1")["global_step"] == 8


def test_of_test(tmp_path: Path) -> None:
    """Trainer.test takes "best", a path and a reference, each right after fit and in a new process's Trainer."""
    model = model_of(pl)
    made = trainer(tmp_path, saver(tmp_path), best_two(tmp_path))
    made.fit(model, data(), data())
    expected = made.test(model, data(), ckpt_path=None, verbose=False)
    made.test(model_of(pl, seed=2), data(), ckpt_path="best", verbose=False)
    for path in (tmp_path / "out" / "last.ckpt", "tpde:run@12"):
        for again in (made, trainer(tmp_path, saver(tmp_path))):
            assert again.test(model_of(pl, seed=2), data(), ckpt_path=path, verbose=False) == expected


def test_metrics(tmp_path: Path) -> None:
    """A checkpoint has what ModelCheckpoint monitors, so that keep can name it; or what the caller passes."""
    callback = best_two(tmp_path, save_top_k=-1, save_last=None)
    made = trainer(tmp_path, saver(tmp_path), callback)
    made.fit(model_of(pl), data(), data())
    for row in tpde.log("run", store=tmp_path / "store"):
        [path] = [path for path in callback.best_k_models if f"step={row['step']}" in path]
        assert row["metrics"] == {"val_loss": float(callback.best_k_models[path])}
    plugin = saver(tmp_path)
    checkpoint = plugin.load_checkpoint("tpde:12")
    plugin.save_checkpoint({**checkpoint, "global_step": 13}, tmp_path / "a.ckpt", {"metrics": {"acc": 1}, "note": "by hand"})
    plugin.teardown()
    lazy = tpde.lazy("run@13", store=tmp_path / "store")
    assert (lazy.metrics, lazy.note) == ({"acc": 1.0}, "by hand")
    with pytest.raises(tpde.InputError, match="storage_options"):
        plugin.save_checkpoint(checkpoint, tmp_path / "a.ckpt", {"compression": 9})


def test_files_are_those_that_other_tools_read(tmp_path: Path) -> None:
    """Weights and moments have their own files, and tpde.load gives the weights."""
    model = model_of(pl)
    trainer(tmp_path, saver(tmp_path), best_two(tmp_path)).fit(model, data(), data())
    lazy = tpde.lazy("run@12", store=tmp_path / "store")
    assert {"model.safetensors", "optimizer.safetensors", "tpde-state.json"} <= set(lazy.files)
    assert {lazy[name].role for name in lazy if "exp_avg_sq" in name} == {"exp_avg_sq"}
    weights = tpde.load("run@12", store=tmp_path / "store")
    assert same(weights, dict(model.state_dict()))


def test_keep(tmp_path: Path) -> None:
    """The run keeps what keep says; a path of what was forgotten can be loaded until a gc, and then says what happened."""
    plugin = saver(tmp_path, keep=tpde.Keep(last=1))
    trainer(tmp_path, plugin, best_two(tmp_path, save_top_k=-1, save_last=None)).fit(model_of(pl), data(), data())
    assert steps(tmp_path) == [12]
    [first] = [path for path in (tmp_path / "out").iterdir() if "step=4" in path.name]
    assert len(names(tmp_path)) == 3
    assert tpde.lightning.load(first)["global_step"] == 4
    typed = [sys.executable, "-m", "tpde", "gc", "--grace", "0s", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(typed, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    with pytest.raises(tpde.NotFoundError, match=r"step=4.ckpt: run@4 \(.*\) is not in .*`tpde gc` has deleted it"):
        tpde.lightning.load(first)


def test_a_store_that_was_moved(tmp_path: Path) -> None:
    """A pointer is found again in a store that was moved, if it is named; if not, it says where it looked."""
    trainer(tmp_path, saver(tmp_path), best_two(tmp_path)).fit(model_of(pl), data(), data())
    (tmp_path / "store").rename(tmp_path / "moved")
    path = tmp_path / "out" / "last.ckpt"
    assert TpdeCheckpointIO(tmp_path / "moved", run="x").load_checkpoint(path)["global_step"] == 12
    assert tpde.lightning.load(path, store=tmp_path / "moved")["global_step"] == 12
    with pytest.raises(tpde.NotFoundError, match=rf"last.ckpt: run.*@12.*is not in {tmp_path}/store"):
        tpde.lightning.load(path)


def test_objects_that_are_no_data(tmp_path: Path) -> None:
    """An object among the hyper-parameters is refused by its place, and kept as a pickle if the caller asks for that."""
    loss = torch.nn.SmoothL1Loss(beta=0.5)
    made = trainer(tmp_path, saver(tmp_path), best_two(tmp_path))
    with pytest.raises(tpde.InputError, match="lightning.hyper_parameters.loss: an object of .*SmoothL1Loss.*allow_pickle=True"):
        made.fit(model_of(pl, loss=loss), data(), data())
    assert not (tmp_path / "out").exists() or names(tmp_path) == []
    trainer(tmp_path, saver(tmp_path, allow_pickle=True), best_two(tmp_path)).fit(model_of(pl, loss=loss), data(), data())
    path = tmp_path / "out" / "last.ckpt"
    assert tpde.lightning.load(path, allow_pickle=True)["hyper_parameters"]["loss"].beta == 0.5
    with pytest.raises(tpde.InputError, match="allow_pickle=True if you trust the store"):
        tpde.lightning.load(path)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets the commit of a step fail."""
    commit = _commit.Committer.commit

    def fail(self: Any, save: Any, at: int, options: Any) -> Any:
        if at == step:
            raise tpde.BackendError("the disk is full")
        return commit(self, save, at, options)

    monkeypatch.setattr(_commit.Committer, "commit", fail)


def test_a_failed_save_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a save in the background failed with is raised; no path names it, and those from before name what they did."""
    fail_at(monkeypatch, 8)
    with pytest.raises(tpde.BackendError, match="the disk is full"):
        trainer(tmp_path, saver(tmp_path), best_two(tmp_path)).fit(model_of(pl), data(), data())
    assert names(tmp_path) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert tpde.lightning.load(tmp_path / "out" / "last.ckpt")["global_step"] == 4


def test_a_failed_last_save_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of fit waits for the last save and raises what it failed with; what it was to replace is not removed."""
    fail_at(monkeypatch, 12)
    with pytest.raises(tpde.BackendError, match="the disk is full"):
        trainer(tmp_path, saver(tmp_path), best_two(tmp_path, save_top_k=1, save_last=None)).fit(model_of(pl), data(), data())
    assert len(names(tmp_path)) == 1
    assert tpde.lightning.load(tmp_path / "out" / names(tmp_path)[0])["global_step"] == 8


def test_a_pointer_never_comes_before_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a checkpoint is being saved, its path is taken but names nothing, an old path names the old one, and nothing is removed."""
    release, commit = threading.Event(), _commit.Committer.commit

    def later(self: Any, save: Any, step: int, options: Any) -> Any:
        if step > 4:
            assert release.wait(60)
        return commit(self, save, step, options)

    monkeypatch.setattr(_commit.Committer, "commit", later)
    plugin = saver(tmp_path)
    state = {"global_step": 4, "state_dict": {"a": torch.ones(3)}}
    last, new = tmp_path / "out" / "last.ckpt", tmp_path / "out" / "new.ckpt"
    plugin.save_checkpoint(state, last)
    plugin.teardown()
    plugin.save_checkpoint({**state, "global_step": 8}, new)
    plugin.remove_checkpoint(last)
    assert last.exists() and new.exists()
    assert tpde.lightning.load(last)["global_step"] == 4
    with pytest.raises(
        tpde.NotFoundError, match=r"new.ckpt: the process that saved run@8 ended before it was committed.*tpde log run"
    ):
        tpde.lightning.load(new)
    release.set()
    # The plugin that saves it waits for it.
    assert plugin.load_checkpoint(new)["global_step"] == 8
    plugin.teardown()
    assert names(tmp_path) == ["new.ckpt"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from test_lightning import best_two, data, model_of, pl, saver, trainer
    from tpde import _commit

    commit = _commit.Committer.commit

    def kill(self, save, step, options):
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(self, save, step, options)

    _commit.Committer.commit = kill
    folder = Path(sys.argv[1])
    trainer(folder, saver(folder), best_two(folder)).fit(model_of(pl), data(), data())
"""


def test_killed_and_resumed_is_exact(tmp_path: Path) -> None:
    """Killed with SIGKILL in a save, training resumes from the last path, which names what was committed, and reaches the same weights."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert tpde.lightning.load(tmp_path / "out" / "last.ckpt")["global_step"] == 4
    whole, resumed = model_of(pl), model_of(pl, seed=2)
    trainer(tmp_path, None, enable_checkpointing=False).fit(whole, data(), data())
    trainer(tmp_path, saver(tmp_path), best_two(tmp_path)).fit(resumed, data(), data(), ckpt_path="last")
    assert bits(resumed) == bits(whole)


DDP = """
    import sys
    from pathlib import Path
    from test_lightning import best_two, bits, data, model_of, pl, saver, trainer

    def train(folder, epochs, path=None, seed=1):
        model = model_of(pl, seed=seed)
        made = trainer(folder, saver(folder), best_two(folder), max_epochs=epochs, strategy="ddp", devices=2)
        made.fit(model, data(), data(), ckpt_path=path)
        trained = bits(model)
        # Every rank reads what rank 0 has written.
        made.test(model, data(), ckpt_path="best", verbose=False)
        made.test(model, data(), ckpt_path="tpde:latest", verbose=False)
        return made.global_rank, trained

    folder = Path(sys.argv[1])
    rank, whole = train(folder / "whole", 2)
    train(folder / "parts", 1)
    _, resumed = train(folder / "parts", 2, folder / "parts" / "out" / "last.ckpt", seed=2)
    (folder / f"rank-{rank}").write_text("same" if resumed == whole else "other weights")
"""


def test_two_ranks(tmp_path: Path) -> None:
    """With two ranks the first saves and both load; resumed, they reach the weights of an uninterrupted training."""
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent(DDP))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    typed = [sys.executable, str(script), str(tmp_path)]
    ran = subprocess.run(typed, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["same", "same"]
    assert steps(tmp_path / "parts") == [2, 4]


def test_weights_only(tmp_path: Path) -> None:
    """A checkpoint of the weights alone has no optimizer, saved and loaded."""
    model = model_of(pl)
    made = trainer(tmp_path, saver(tmp_path), enable_checkpointing=False, max_epochs=1)
    made.fit(model, data(), data())
    made.save_checkpoint(tmp_path / "out" / "weights.ckpt", weights_only=True)
    made.save_checkpoint(tmp_path / "out" / "all.ckpt")
    made.strategy.checkpoint_io.teardown()
    weights, whole = (tpde.lightning.load(tmp_path / "out" / name) for name in ("weights.ckpt", "all.ckpt"))
    assert "optimizer_states" not in weights and len(whole["optimizer_states"]) == 1
    assert same(weights["state_dict"], model.state_dict())


def test_a_file_of_lightnings_own_is_loaded(tmp_path: Path) -> None:
    """Training goes on from a file that Lightning wrote before there was the plugin."""
    trainer(tmp_path, None, best_two(tmp_path), max_epochs=1).fit(model_of(pl), data(), data())
    whole, resumed = model_of(pl), model_of(pl, seed=2)
    trainer(tmp_path, None, enable_checkpointing=False).fit(whole, data(), data())
    made = trainer(tmp_path, saver(tmp_path), best_two(tmp_path))
    made.fit(resumed, data(), data(), ckpt_path=tmp_path / "out" / "last.ckpt")
    assert bits(resumed) == bits(whole)
    with pytest.raises(FileNotFoundError):
        saver(tmp_path).load_checkpoint(tmp_path / "none.ckpt")
    torch.save({"a": 1}, tmp_path / "other.ckpt")
    with pytest.raises(tpde.InputError, match="other.ckpt names no checkpoint of a store. Load it with torch.load"):
        tpde.lightning.load(tmp_path / "other.ckpt")


def test_what_is_no_checkpoint_of_the_trainer(tmp_path: Path) -> None:
    """Lightning's own notes are files of torch, another loop's state is refused, and another's checkpoint is told apart."""
    plugin = saver(tmp_path)
    plugin.save_checkpoint({"a": torch.ones(2)}, tmp_path / ".temp.ckpt")
    assert same(torch.load(tmp_path / ".temp.ckpt"), {"a": torch.ones(2)})
    assert same(plugin.load_checkpoint(tmp_path / ".temp.ckpt"), {"a": torch.ones(2)})
    with pytest.raises(tpde.InputError, match="no global_step. With Fabric or a loop of your own use tpde.open"):
        plugin.save_checkpoint({"a": torch.ones(2)}, tmp_path / "a.ckpt")
    with tpde.open(tmp_path / "store", run="loop") as run:
        run.save(1, model=torch.nn.Linear(2, 2))
    with pytest.raises(tpde.InputError, match="loop@1 was not saved by Lightning's Trainer. It has: model"):
        plugin.load_checkpoint("tpde:loop@1")
    with pytest.raises(tpde.NotFoundError, match="run run has no checkpoint"):
        plugin.load_checkpoint("tpde:latest")
    (tmp_path / "new.ckpt").write_text(json.dumps({"tpde": 2}))
    with pytest.raises(tpde.InputError, match="new.ckpt was written by another version of tpde"):
        plugin.load_checkpoint(tmp_path / "new.ckpt")


def test_plain_file_comparison(tmp_path: Path) -> None:
    """What is loaded has the keys and values that Lightning's own plugin loads."""
    plain = TorchCheckpointIO()
    plugin = Recorded(tmp_path / "store", run="run")
    trainer(tmp_path, plugin, best_two(tmp_path)).fit(model_of(pl), data(), data())
    path = str(tmp_path / "out" / "last.ckpt")
    plain.save_checkpoint(plugin.given[path], tmp_path / "plain.ckpt")
    assert same(plugin.load_checkpoint(path), plain.load_checkpoint(tmp_path / "plain.ckpt", weights_only=True))


def test_map_location(tmp_path: Path) -> None:
    """Tensors go where torch.load would put them."""
    plugin = saver(tmp_path)
    path = tmp_path / "a.ckpt"
    plugin.save_checkpoint({"global_step": 1, "state_dict": {"a": torch.ones(3)}}, path)
    for location, kind in [
        (None, "cpu"), ("meta", "meta"), (torch.device("meta"), "meta"), ({"cpu": "meta"}, "meta"), ({"cuda:0": "cpu"}, "cpu"),
        (lambda storage, place: storage, "cpu"), (lambda storage, place: None, "cpu"),
    ]:  # fmt: skip
        assert plugin.load_checkpoint(path, location)["state_dict"]["a"].device.type == kind
    plugin.teardown()


def test_another_file_system(tmp_path: Path) -> None:
    """A path may be of any file system that Lightning writes to."""
    plugin = saver(tmp_path)
    path = f"memory://{tmp_path.name}/a.ckpt"
    plugin.save_checkpoint({"global_step": 1, "state_dict": {"a": torch.ones(3)}}, path)
    assert same(plugin.load_checkpoint(path)["state_dict"], {"a": torch.ones(3)})
    plugin.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        plugin.load_checkpoint(path)
    plugin.teardown()


def test_a_plugin_goes_to_other_processes(tmp_path: Path) -> None:
    """A plugin that has saved can be pickled, as Lightning does for processes that it starts, and its copy opens the run itself."""
    plugin = saver(tmp_path)
    plugin.save_checkpoint({"global_step": 1, "state_dict": {"a": torch.ones(3)}}, tmp_path / "a.ckpt")
    copy = pickle.loads(pickle.dumps(plugin))
    plugin.teardown()
    copy.save_checkpoint({"global_step": 2, "state_dict": {"a": torch.ones(3)}}, tmp_path / "b.ckpt")
    copy.teardown()
    assert steps(tmp_path) == [1, 2]
