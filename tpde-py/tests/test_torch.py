"""Tensors of torch, of every kind that a state may hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import need

torch = need("torch")

import tpde
from common import open_run

DTYPES = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32", "float64",
    "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def saved_and_loaded(folder: Path, value: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    with open_run(folder) as run:
        run.save(0, model=value).wait()
        run.rewind(0, model=loaded)
    return loaded


@pytest.mark.parametrize("name", DTYPES)
def test_tensors(tmp_path: Path, name: str) -> None:
    """Tensors of every dtype, shape, layout and device memory format come back with their bits, NaN payloads included."""
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (16 * 48,), dtype=torch.uint8, generator=generator)
    flat = (raw % 2).bool() if name == "bool" else raw.view(dtype)
    flat = flat[:48].clone()
    cube = flat.view(2, 3, 2, 4)
    value = {
        "flat": flat, "cube": cube, "turned": cube.mT, "every other": flat[::2], "column": cube[:, 1:2], "none": flat[:0],
        "no rows": torch.empty((0, 3), dtype=dtype), "point": flat[0].clone(), "broadcast": flat[:1].expand(5), "part": flat[7:9],
        "channels last": cube.contiguous(memory_format=torch.channels_last), "parameter": torch.nn.Parameter(flat, requires_grad=False),
    }  # fmt: skip
    loaded = saved_and_loaded(tmp_path, value)
    for key, tensor in value.items():
        assert same(tensor, loaded[key]), key


def test_views_that_are_not_resolved(tmp_path: Path) -> None:
    """Conjugate and negative views are kept as the values that they stand for."""
    tensor = torch.randn(4, dtype=torch.complex64)
    value = {"conjugate": tensor.conj(), "imaginary": tensor.conj().imag}
    loaded = saved_and_loaded(tmp_path, value)
    assert all(torch.equal(value[key], loaded[key]) for key in value)


def test_nan_everywhere(tmp_path: Path) -> None:
    """A model that has become NaN is kept as well as any other."""
    value = {"w": torch.full((1000,), float("nan")), "v": torch.full((1000,), float("nan"), dtype=torch.bfloat16)}
    loaded = saved_and_loaded(tmp_path, value)
    assert all(same(value[key], loaded[key]) for key in value)


def test_tied_tensors(tmp_path: Path) -> None:
    """A weight with two names is copied and stored once, and both names load; a resumed module's weights are still tied."""

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(500, 64)
            self.head = torch.nn.Linear(64, 500, bias=False)
            self.head.weight = self.embedding.weight

    model = Tied()
    weight = model.head.weight.detach().clone()
    with open_run(tmp_path) as run:
        handle = run.save(0, model=model)
        assert handle.stored_bytes < weight.nbytes * 1.1
        with torch.no_grad():
            model.head.weight.zero_()
        run.rewind(0, model=model)
        assert set(run.load(0)) == {"embedding.weight", "head.weight"}
    assert torch.equal(model.embedding.weight, weight)
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.empty(3, device="meta"), "model.w: it is a meta tensor"),
        (lambda: torch.eye(3).to_sparse(), "model.w: it is sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "model.w: it is sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "model.w: it is a quantised tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "model.w: it is"),
        (lambda: torch.zeros(3, dtype=torch.complex32), "model.w: torch.complex32 has no counterpart"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_refused(tmp_path: Path, make: Any, words: str) -> None:
    """What has no bytes of its own is one error that names the tensor and says what to save instead; nothing is saved, and saving goes on."""
    with open_run(tmp_path) as run:
        with pytest.raises(tpde.InputError) as raised:
            run.save(0, model={"w": make()})
        assert words in str(raised.value)
        run.save(0, model={"w": torch.ones(1)}).wait()
        assert [row["step"] for row in run.log()] == [0]


def test_a_state_dict_whose_keys_change(tmp_path: Path) -> None:
    """A model that gains and loses layers is saved as it is each time; the wrong model is told which names do not fit."""
    small, large = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with open_run(tmp_path) as run:
        run.save(0, model=small)
        run.save(1, model=large)
        run.save(2, model=small)
        run.rewind(1, model=large)
        before = [weight.clone() for weight in small.parameters()]
        with pytest.raises(tpde.InputError, match="1.weight"):
            run.rewind(1, model=small)
        with pytest.raises(tpde.InputError, match="optimizer.*It has: model"):
            run.resume(model=small, optimizer=torch.optim.SGD(small.parameters()))
        assert all(map(torch.equal, before, small.parameters()))


def test_half_of_a_state_is_never_loaded_before_all_of_it_was_read(tmp_path: Path) -> None:
    """A component that the checkpoint lacks is told before any other is touched."""
    model = torch.nn.Linear(2, 2)
    with open_run(tmp_path) as run:
        run.save(0, model=model)
        with torch.no_grad():
            model.weight.zero_()
        with pytest.raises(tpde.InputError):
            run.rewind(0, model=model, scheduler={})
    assert torch.equal(model.weight, torch.zeros(2, 2))


def test_metrics_that_are_tensors(tmp_path: Path) -> None:
    """A loss with a graph behind it is a number like any other."""
    loss = torch.ones(1, requires_grad=True).sum() * 0.5
    with open_run(tmp_path) as run:
        run.save(0, model={"w": torch.ones(1)}, metrics={"loss": loss}).wait()
        assert run.log()[0]["metrics"] == {"loss": 0.5}


def test_jax_arrays(tmp_path: Path) -> None:
    """Arrays of jax come back as arrays of jax, bfloat16 and 8-bit floats included; keys and shards are told."""
    jax = need("jax")
    names = ["float32", "int32", "bool", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64"]
    value = {name: jax.numpy.arange(6).reshape(2, 3).astype(name) for name in names}
    loaded = saved_and_loaded(tmp_path, value)
    for name in names:
        assert isinstance(loaded[name], jax.Array)
        assert loaded[name].dtype == value[name].dtype
        assert bool((loaded[name] == value[name]).all())
    with open_run(tmp_path) as run, pytest.raises(tpde.InputError, match="key_data"):
        run.save(1, model={"key": jax.random.key(0)})


def test_arrays_that_safetensors_loads(tmp_path: Path) -> None:
    """What safetensors has loaded is saved like any tensor, and what is restored it loads."""
    safetensors = need("safetensors.torch")
    value = {"w": torch.randn(3, 5).bfloat16(), "q": torch.randn(4).to(torch.float8_e4m3fn)}
    safetensors.save_file(value, tmp_path / "w.safetensors")
    with open_run(tmp_path) as run:
        run.save(0, model=safetensors.load_file(tmp_path / "w.safetensors"))
        run.flush()
        run.restore(0, tmp_path / "out")
    again = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert all(same(value[name], again[name]) for name in value)
