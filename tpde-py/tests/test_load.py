"""Loading: tensors by pattern, into a live module, and a slice at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import need

torch = need("torch")

import numpy as np
import tpde
from common import open_run, packs


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.ReLU(), torch.nn.Linear(300, 7)).bfloat16()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """A store with a run of three steps, and the model of the last."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    with open_run(tmp_path) as run:
        for step in range(3):
            net(torch.randn(8, 40, dtype=torch.bfloat16)).float().square().mean().backward()
            optimizer.step()
            run.save(step, model=net, optimizer=optimizer, metrics={"loss": step / 2})
    return tmp_path / "store", net


def test_load(saved: tuple[Path, torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors come by name, by pattern, by file, in the framework and dtype that are asked for; the model's by default."""
    store, net = saved
    state = net.state_dict()
    loaded = tpde.load("run@2", store=store)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert set(tpde.load("run@2", "*.bias", store=store)) == {"0.bias", "2.bias"}
    assert set(tpde.load("run", "?.weight", store=store)) == {"0.weight", "2.weight"}
    assert tpde.load("run@2", "2.bias", store=store, dtype=torch.float32, device="cpu")["2.bias"].dtype == torch.float32
    moments = tpde.load("run~1", "*exp_avg", store=store, file="optimizer.safetensors")
    assert len(moments) == 4
    ml_dtypes = need("ml_dtypes")
    array = tpde.load("run@2", "0.bias", store=store, framework="numpy")["0.bias"]
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype(np.float32).tolist() == state["0.bias"].tolist()
    monkeypatch.setenv("TPDE_STORE", str(store))
    assert torch.equal(tpde.load("run@2")["2.weight"], state["2.weight"])
    assert [row["step"] for row in tpde.log("run")] == [2, 1, 0]
    assert [row["step"] for row in tpde.log("run", 1)] == [2]
    assert tpde.runs() == ["run"]


def test_load_into(saved: tuple[Path, torch.nn.Module]) -> None:
    """A live module gets its weights in place: parameters stay the objects that they are."""
    store, net = saved
    other = model()
    parameters = list(other.parameters())
    addresses = [parameter.data_ptr() for parameter in parameters]
    tpde.load_into(other, "run@latest", store=store)
    assert [parameter.data_ptr() for parameter in other.parameters()] == addresses
    assert all(a is b for a, b in zip(other.parameters(), parameters, strict=True))
    assert all(map(torch.equal, other.parameters(), net.parameters()))
    wrong = torch.nn.Sequential(torch.nn.Linear(40, 300)).bfloat16()
    before = wrong[0].weight.clone()
    with pytest.raises(tpde.InputError, match=r"the module lacks 2\.bias, 2\.weight"):
        tpde.load_into(wrong, "run@2", store=store)
    assert torch.equal(wrong[0].weight, before)
    tpde.load_into(wrong, "run@2", store=store, strict=False)
    assert torch.equal(wrong[0].weight, net[0].weight)
    with pytest.raises(tpde.InputError, match=r"shape \(300, 40\) in run@2 and \(300, 41\)"):
        tpde.load_into(torch.nn.Sequential(torch.nn.Linear(41, 300)), "run@2", store=store, strict=False)


def test_load_into_is_all_or_nothing(saved: tuple[Path, torch.nn.Module]) -> None:
    """A checkpoint that cannot be read leaves a live module as it is."""
    store, _ = saved
    for pack in packs(store.parent):
        pack.unlink()
    other = model()
    before = [parameter.clone() for parameter in other.parameters()]
    with pytest.raises(tpde.CorruptError):
        tpde.load_into(other, "run@2", store=store)
    assert all(map(torch.equal, other.parameters(), before))


def test_lazy(saved: tuple[Path, torch.nn.Module]) -> None:
    """A handle reads what is asked for, and indexes as the tensor would."""
    store, net = saved
    lazy = tpde.lazy("run@2", store=store)
    weight = net[0].weight.detach()
    handle = lazy["0.weight"]
    assert (handle.shape, handle.dtype, handle.nbytes, len(handle)) == ((300, 40), "BF16", 24_000, 300)
    assert handle.role == "weight"
    for index in [
        slice(None), slice(10, 20), slice(290, 400), slice(5, 5), slice(20, 10), slice(-3, None), slice(0, 300, 7), 0, -1, 299,
        (slice(2, 9), 3), (5, slice(None, None, 2)), (-2, -1), ..., (..., 1), [1, 5, 2], (),
    ]:  # fmt: skip
        assert torch.equal(handle[index], weight[index]), index
    with pytest.raises(IndexError):
        handle[300]
    with pytest.raises(IndexError):
        handle[-301]
    with pytest.raises(KeyError):
        lazy["nothing"]
    step = lazy["state.0.step"]
    assert step.shape == ()
    assert step[()] == 3
    assert lazy.metrics == {"loss": 1.0}
    assert (lazy.run, lazy.step) == ("run", 2)
    assert lazy.read_file("tpde-state.json").startswith(b'{"format":1')
    with pytest.raises(tpde.NotFoundError, match="model.safetensors"):
        lazy.read_file("nothing")


def test_diff_is_a_table(saved: tuple[Path, torch.nn.Module]) -> None:
    """Differences and histories are rows that pandas takes."""
    store, _ = saved
    rows = tpde.diff("run@1", "run@2", store=store)
    by_name = {(row["file"], row["name"]): row for row in rows}
    weight = by_name["model.safetensors", "0.weight"]
    assert weight["change"] == "changed"
    assert 0 < weight["changed_elements"] <= weight["elements"] == 12_000
    assert weight["role"] == "weight"
    assert by_name["optimizer.safetensors", "state.0.exp_avg"]["role"] == "exp_avg"
    pandas = need("pandas")
    frame = pandas.DataFrame(rows)
    assert len(frame) == len(rows)
    assert pandas.DataFrame(tpde.log("run", store=store))["step"].tolist() == [2, 1, 0]


def test_what_cannot_be_loaded(saved: tuple[Path, torch.nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrong wish is one error that says what there is."""
    store, _ = saved
    for error, words, arguments in [
        (tpde.NotFoundError, "step 7", {"reference": "run@7"}),
        (tpde.NotFoundError, "none", {"reference": "none@0"}),
        (tpde.InputError, "run name", {"reference": "a b"}),
        (tpde.NotFoundError, "like q.*run@2", {"reference": "run@2", "tensors": "q.*"}),
        (tpde.InputError, "cpu only", {"reference": "run@2", "device": "cuda:0"}),
        (tpde.InputError, "not known", {"reference": "run@2", "framework": "mxnet"}),
        (tpde.InputError, "framework", {"reference": "run@2", "framework": "numpy", "dtype": torch.float32}),
    ]:
        with pytest.raises(error, match=f"(?i){words}"):
            tpde.load(**{"store": store, **arguments})
    monkeypatch.delenv("TPDE_STORE", raising=False)
    with pytest.raises(tpde.InputError, match="TPDE_STORE"):
        tpde.load("run@2")
    with pytest.raises(tpde.NotFoundError):
        tpde.load("run@2", store=store / "nothing")
