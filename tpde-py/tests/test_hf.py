"""The callback of the transformers Trainer, against the Trainer."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import need

torch = need("torch")
transformers = need("transformers")
need("accelerate")

import tpde
from tpde import _aside, _exit, hf
from tpde._commit import Committer
from tpde.hf import TpdeCallback

pytestmark = [
    # What the frameworks say to each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]

STEPS = 12

# A small model is slowest where threads wait for each other.
torch.set_num_threads(1)


class Rows(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
    """Sequences of a small vocabulary."""

    def __init__(self) -> None:
        self.rows = torch.randint(0, 32, (64, 8), generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Stop(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Stops the training at a step, as an end of the process would: nothing is saved for it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Held(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Calls something at an event."""

    def __init__(self, **events: Any) -> None:
        self.events = events

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "step" in self.events:
            self.events["step"](state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "save" in self.events:
            self.events["save"](state)


def trainer(folder: Path, *callbacks: Any, seed: int = 3, **options: Any) -> Any:
    """A Trainer of a small model with dropout, AdamW and a schedule, that saves every 4 of 12 steps into ``folder/out``."""
    transformers.set_seed(seed)
    config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    arguments: dict[str, Any] = {
        "output_dir": str(folder / "out"), "use_cpu": True, "max_steps": STEPS, "per_device_train_batch_size": 4,
        "save_strategy": "steps", "save_steps": 4, "logging_steps": 2, "learning_rate": 1e-2, "warmup_steps": 2,
        "report_to": [], "disable_tqdm": True, "seed": 3, "dataloader_num_workers": 0, "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments.update(options)
    args = transformers.TrainingArguments(**arguments)
    made = transformers.Trainer(
        model=model,
        args=args,
        train_dataset=Rows(),
        eval_dataset=torch.utils.data.Subset(Rows(), range(8)),
        callbacks=list(callbacks),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def bits(made: Any) -> bytes:
    """The bytes of a Trainer's weights."""
    return b"".join(value.detach().numpy().tobytes() for value in made.model.state_dict().values())


def saver(folder: Path, **options: Any) -> TpdeCallback:
    return TpdeCallback(folder / "store", run="run", **options)


def steps(folder: Path) -> list[int]:
    """Steps that the run has, oldest first."""
    return [row["step"] for row in reversed(tpde.log("run", store=folder / "store"))]


def left(folder: Path) -> list[str]:
    """Names in the Trainer's folder."""
    return sorted(os.listdir(folder / "out"))


def damage(folder: Path) -> None:
    """Breaks the newest pack of the store."""
    packs = [path for path in (folder / "store" / "packs").rglob("*") if path.is_file()]
    newest = max(packs, key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.chmod(0o644)
    newest.write_bytes(content)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that training reaches by itself."""
    made = trainer(tmp_path_factory.mktemp("uninterrupted"))
    made.train()
    return bits(made)


def test_resume_is_exact(tmp_path: Path, uninterrupted: bytes) -> None:
    """Stopped between two saves and resumed from the store alone, the Trainer reaches the weights that it reaches without."""
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, saver(tmp_path), Stop(10)).train()
    callback = saver(tmp_path)
    # Whoever stopped has saved step 8 by now, or does so before the process ends.
    wait_for(tmp_path, 8)
    shutil.rmtree(tmp_path / "out")
    # Other weights to begin with: what is not resumed shows.
    again = trainer(tmp_path, callback, seed=4)
    path = callback.restore_latest(tmp_path / "out")
    assert path == str(tmp_path / "out" / "checkpoint-8")
    again.train(resume_from_checkpoint=path)
    assert bits(again) == uninterrupted
    assert steps(tmp_path) == [4, 8, 12]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from test_hf import Held, saver, trainer

    folder = Path(sys.argv[1])
    callback = saver(folder)
    kill = Held(step=lambda state: state.global_step == int(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL))
    made = trainer(folder, callback, kill)
    made.train(resume_from_checkpoint=callback.restore_latest(folder / "out"))
"""


def process(code: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Starts a process that runs ``code``, which may import this module."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), **variables},
    )


def test_killed_and_resumed_is_exact(tmp_path: Path, uninterrupted: bytes) -> None:
    """Killed with SIGKILL right after a save was handed over, the next start resumes exactly from whatever was committed."""
    for step in (5, 9):
        with process(KILLED, tmp_path, step) as killed:
            errors = killed.communicate(timeout=300)[1]
        assert killed.returncode == -signal.SIGKILL, errors
    callback = saver(tmp_path)
    again = trainer(tmp_path, callback, seed=4)
    path = callback.restore_latest(tmp_path / "out")
    if path is not None:
        again.train(resume_from_checkpoint=path)
        assert bits(again) == uninterrupted
    assert not [name for name in left(tmp_path) if name.startswith(".")]


RANK = """
    import shutil, sys
    from pathlib import Path
    from test_hf import bits, saver, trainer
    from tpde import _ranks

    # A schedule that does not depend on where the training ends.
    options = {"lr_scheduler_type": "constant_with_warmup", "save_steps": 2, "per_device_train_batch_size": 2}

    def train(folder, steps, seed=3):
        callback = saver(folder)
        made = trainer(folder, callback, max_steps=steps, seed=seed, **options)
        path = callback.restore_latest(folder / "out")
        made.train(resume_from_checkpoint=path)
        return made.args.process_index, path, bits(made)

    folder = Path(sys.argv[1])
    rank, path, whole = train(folder / "whole", 4)
    assert path is None
    train(folder / "parts", 2)
    _ranks.wait_for_all()
    if rank == 0:
        shutil.rmtree(folder / "parts" / "out")
    _, path, resumed = train(folder / "parts", 4, seed=4)
    (folder / f"rank-{rank}").write_text(f"{Path(path).name} {'same' if resumed == whole else 'other'} weights")
"""


def test_two_ranks(tmp_path: Path) -> None:
    """Rank 0 saves what both ranks wrote, both resume from what it restored, and reach the weights of an uninterrupted training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [process(RANK, tmp_path, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(2)]
    for rank in both:
        errors = rank.communicate(timeout=300)[1]
        assert rank.returncode == 0, errors
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["checkpoint-2 same weights"] * 2
    assert steps(tmp_path / "parts") == [2, 4]
    files = tpde.lazy("run@2", store=tmp_path / "parts" / "store").files
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(files)


def wait_for(folder: Path, step: int) -> None:
    """Waits until all that this process saves is saved, of which ``step`` is the newest."""
    for worker in list(_exit._workers):
        worker.wait()
    assert steps(folder)[-1] == step


def test_restored_files_are_those_of_the_trainer(tmp_path: Path) -> None:
    """The directory that is restored has the files of the one that was written, byte for byte."""
    trainer(tmp_path, saver(tmp_path)).train()
    written = tmp_path / "out" / "checkpoint-12"
    kept = tmp_path / "kept"
    written.rename(kept)
    assert hf.restore_latest(tmp_path / "store", "run", tmp_path / "out") == str(written)
    assert contents(written) == contents(kept)
    assert {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= set(contents(written))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rotation_deletes_nothing_that_is_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With save_total_limit=1 a directory is deleted while it waits to be saved, and is saved whole."""
    is_deleted = threading.Event()
    commit = Committer.commit

    def later(self: Any, save: Any, step: int, options: Any) -> Any:
        if step == 4:
            assert is_deleted.wait(60)
        return commit(self, save, step, options)

    def look(state: Any) -> None:
        # on_save of 8 waits for the save of 4; the Trainer has deleted checkpoint-4 before that.
        if state.global_step == 8:
            assert left(tmp_path)[-1] == "checkpoint-8" and "checkpoint-4" not in left(tmp_path)
            is_deleted.set()

    monkeypatch.setattr(Committer, "commit", later)
    trainer(tmp_path, Held(save=look), saver(tmp_path), save_total_limit=1).train()
    assert is_deleted.is_set()
    assert steps(tmp_path) == [4, 8, 12]
    assert left(tmp_path) == ["checkpoint-12"]
    tpde.lazy("run@4", store=tmp_path / "store").read_file("trainer_state.json")


def test_without_links_a_checkpoint_is_saved_before_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links nothing is read later than on_save."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("no links here")

    saved: list[list[int]] = []
    monkeypatch.setattr(os, "link", refuse)
    look = Held(save=lambda state: saved.append(steps(tmp_path)))
    trainer(tmp_path, saver(tmp_path), look, save_total_limit=1).train()
    assert saved == [[4], [4, 8], [4, 8, 12]]
    assert left(tmp_path) == ["checkpoint-12"]


def test_a_failed_save_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a save in the background failed with is raised at a step after it, and nothing is left beside the checkpoints."""
    failed = threading.Event()

    def fail(self: Any, save: Any, step: int, options: Any) -> None:
        failed.set()
        raise tpde.BackendError("the disk is full")

    reached: list[int] = []
    monkeypatch.setattr(Committer, "commit", fail)

    def follow(state: Any) -> None:
        reached.append(state.global_step)
        if state.global_step > 4:
            assert failed.wait(60)

    watch = Held(step=follow)
    with pytest.raises(tpde.BackendError, match="the disk is full"):
        trainer(tmp_path, watch, saver(tmp_path)).train()
    assert reached[-1] in (5, 6)
    assert left(tmp_path) == ["checkpoint-4"]


def test_a_failed_last_save_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the training waits for the last save and raises what it failed with."""
    commit = Committer.commit

    def fail(self: Any, save: Any, step: int, options: Any) -> Any:
        if step == STEPS:
            raise tpde.BackendError("the disk is full")
        return commit(self, save, step, options)

    monkeypatch.setattr(Committer, "commit", fail)
    with pytest.raises(tpde.BackendError, match="the disk is full"):
        trainer(tmp_path, saver(tmp_path)).train()
    assert steps(tmp_path) == [4, 8]


def test_keep(tmp_path: Path) -> None:
    """The run keeps what keep says, whatever the Trainer keeps."""
    trainer(tmp_path, saver(tmp_path, keep=tpde.Keep(last=1)), save_steps=2).train()
    assert steps(tmp_path) == [12]
    assert len(left(tmp_path)) == 6


def test_delete_after_save(tmp_path: Path) -> None:
    """Directories that are committed are deleted, the newest and the best stay, and the best is loaded at the end."""
    options: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 4,
        "load_best_model_at_end": True,
        "greater_is_better": True,
    }
    made = trainer(tmp_path, saver(tmp_path, delete_after_save=True), **options)
    made.train()
    best = Path(made.state.best_model_checkpoint).name
    assert best == "checkpoint-4", "the greatest loss is the first"
    assert left(tmp_path) == ["checkpoint-12", best]
    assert steps(tmp_path) == [4, 8, 12]


def test_delete_after_save_waits_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose save failed is not deleted."""
    commit = Committer.commit

    def fail(self: Any, save: Any, step: int, options: Any) -> Any:
        if step == 8:
            raise tpde.BackendError("the disk is full")
        return commit(self, save, step, options)

    monkeypatch.setattr(Committer, "commit", fail)
    with pytest.raises(tpde.BackendError):
        trainer(tmp_path, saver(tmp_path, delete_after_save=True)).train()
    assert "checkpoint-8" in left(tmp_path) and "checkpoint-4" not in left(tmp_path)


def test_a_restored_directory_is_deleted_too(tmp_path: Path) -> None:
    """What was restored to resume from is in the store already, and goes with the next save."""
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, saver(tmp_path), Stop(5)).train()
    wait_for(tmp_path, 4)
    callback = saver(tmp_path, delete_after_save=True)
    again = trainer(tmp_path, callback)
    again.train(resume_from_checkpoint=callback.restore_latest(tmp_path / "out"))
    assert left(tmp_path) == ["checkpoint-12"]


def test_metrics(tmp_path: Path) -> None:
    """A checkpoint has the numbers that were logged for it; an evaluation belongs to its step alone."""
    trainer(tmp_path, saver(tmp_path), eval_strategy="steps", eval_steps=6, logging_steps=4, save_steps=3).train()
    rows = {row["step"]: row["metrics"] for row in tpde.log("run", store=tmp_path / "store")}
    assert sorted(rows) == [3, 6, 9, 12]
    assert [step for step in sorted(rows) if "eval_loss" in rows[step]] == [6, 12]
    assert [step for step in sorted(rows) if "loss" in rows[step]] == [6, 9, 12]
    assert {"learning_rate", "grad_norm", "epoch"} <= set(rows[9])


def test_metrics_that_the_store_cannot_have() -> None:
    """A name that a store does not take is left out rather than that the save fails; of too many numbers the evaluation's stay."""
    history = [{"step": 2, "a=b": 1.0, "x" * 65: 1.0, " y": 1.0, "": 1.0, "note": "text", "flag": True, "z": 2}]
    assert hf._metrics(history, 0, 2) == {"z": 2.0}
    many = [{"step": 1, **{f"m{number}": 1.0 for number in range(200)}, "eval_loss": 1.0}]
    assert len(hf._metrics(many, 0, 1)) == 32 and "eval_loss" in hf._metrics(many, 0, 1)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, uninterrupted: bytes) -> None:
    """If the newest cannot be read, the one before is restored, with a warning, and the directory that is there is not touched by it."""
    trainer(tmp_path, saver(tmp_path)).train()
    damage(tmp_path)
    before = contents(tmp_path / "out" / "checkpoint-12")
    callback = saver(tmp_path)
    with pytest.warns(UserWarning, match="passed over a checkpoint that cannot be read: run@12"):
        path = callback.restore_latest(tmp_path / "out")
    assert path == str(tmp_path / "out" / "checkpoint-8")
    assert contents(tmp_path / "out" / "checkpoint-12") == before
    assert left(tmp_path) == ["checkpoint-12", "checkpoint-4", "checkpoint-8"]
    again = trainer(tmp_path, callback)
    again.train(resume_from_checkpoint=path)
    assert bits(again) == uninterrupted


def test_no_store_and_no_checkpoint(tmp_path: Path) -> None:
    """The first start of a job finds nothing, and trains from the beginning."""
    callback = saver(tmp_path)
    assert callback.restore_latest(tmp_path / "out") is None
    made = trainer(tmp_path, callback)
    assert callback.restore_latest(tmp_path / "out") is None
    made.train(resume_from_checkpoint=callback.restore_latest(tmp_path / "out"))
    assert steps(tmp_path) == [4, 8, 12]


def test_restores_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks a checkpoint is saved before training goes on, and restored in its place."""
    made = trainer(tmp_path, saver(tmp_path))

    def refuse(*args: Any) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    made.train()
    written = tmp_path / "out" / "checkpoint-12"
    before = contents(written)
    (written / "trainer_state.json").unlink()
    assert hf.restore_latest(tmp_path / "store", "run", tmp_path / "out") == str(written)
    assert contents(written) == before
    assert len(left(tmp_path)) == 3


def test_another_training_is_refused(tmp_path: Path) -> None:
    """A training that begins anew does not take the steps of one that the run has: it is told to resume."""
    trainer(tmp_path, saver(tmp_path)).train()
    with pytest.raises(tpde.ConflictError, match="step 4 is in run run with other content. Resume the run first"):
        trainer(tmp_path, saver(tmp_path), seed=4).train()


def test_one_callback_trains_twice(tmp_path: Path) -> None:
    """A Trainer that goes on after its end goes on saving."""
    callback = saver(tmp_path)
    trainer(tmp_path, callback, max_steps=4).train()
    trainer(tmp_path, callback).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert steps(tmp_path) == [4, 8, 12]


def test_leftovers_are_removed_at_the_start(tmp_path: Path) -> None:
    """What a killed process left beside the checkpoints goes, what a living one works in stays."""
    out = tmp_path / "out"
    out.mkdir()
    dead, alive = _aside.Aside(out), _aside.Aside(out)
    dead.files.mkdir()
    (dead.files / "a").write_text("a")
    # Its lock goes as with its process.
    os.close(dead._lock)
    unlocked = out / ".tpde-00000000.work"
    unlocked.mkdir()
    other = out / ".tpde-notes"
    other.mkdir()
    trainer(tmp_path, saver(tmp_path)).train()
    assert [name for name in left(tmp_path) if name.startswith(".")] == sorted([alive._folder.name, ".tpde-notes"])
    alive.remove()


def test_the_folder_of_links_is_no_checkpoint(tmp_path: Path) -> None:
    """Neither the Trainer nor an import takes the folder of links for a checkpoint."""
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "a").write_text("a")
    aside = _aside.Aside(tmp_path)
    _aside.link_tree(tmp_path / "checkpoint-5", aside.files)
    assert (aside.files / "a").read_text() == "a"
    assert transformers.trainer_utils.get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-5")
    assert transformers.trainer_utils.sort_checkpoints(str(tmp_path)) == [str(tmp_path / "checkpoint-5")]
    store = tmp_path / "elsewhere"
    for typed in (["init", store], ["import", tmp_path, "--store", store, "--run", "run", "--yes"]):
        command = [sys.executable, "-m", "tpde", *map(str, typed)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert [row["step"] for row in tpde.log("run", store=store)] == [5]
    aside.remove()


def test_a_wrong_place_is_told_before_training(tmp_path: Path) -> None:
    """A name that is none, and a store that is not there, are told when the Trainer is made."""
    with pytest.raises(tpde.InputError, match="run name"):
        trainer(tmp_path, TpdeCallback(tmp_path / "store", run="a run"))
    with pytest.raises(tpde.NotFoundError):
        trainer(tmp_path, TpdeCallback(tmp_path / "none", run="run", create=False))


def test_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With on_busy="skip" a checkpoint that comes while another is being saved is not saved, and training does not wait."""
    trained = threading.Event()
    commit = Committer.commit

    def later(self: Any, save: Any, step: int, options: Any) -> Any:
        assert trained.wait(60)
        return commit(self, save, step, options)

    monkeypatch.setattr(Committer, "commit", later)

    def release(state: Any) -> None:
        if state.global_step == STEPS - 1:
            trained.set()

    watch = Held(step=release)
    trainer(tmp_path, watch, saver(tmp_path, on_busy="skip")).train()
    assert steps(tmp_path)[0] == 4 and 8 not in steps(tmp_path)
    with pytest.raises(tpde.InputError, match="on_busy"):
        saver(tmp_path, on_busy="never")


def test_no_warnings_of_our_own(tmp_path: Path) -> None:
    """An ordinary training with the callback warns of nothing that is this package's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, saver(tmp_path, keep=tpde.Keep(last=2))).train()
    assert not [warning for warning in caught if "tpde" in warning.filename]
