"""What the package does with numpy alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tpde
from common import finished, open_run, python
from conftest import need


def saved_and_loaded(folder: Path, value: dict[str, Any], **options: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = {}
    with open_run(folder) as run:
        run.save(0, extra=value, **options).wait()
        run.rewind(0, extra=loaded, **options)
    return loaded


def same(a: Any, b: Any) -> bool:
    """The same value of the same type, NaNs and signs of zeros included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    return bool(a == b)


def test_data_comes_back_as_it_was(tmp_path: Path) -> None:
    """Everything that a state_dict is made of comes back with its type, its order and its bits."""
    value = {
        "none": None, "bools": [True, False], "ints": [0, -1, 2**80], "text": "žluť\n\"\\", "empty": {},
        "floats": [0.1, -0.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")],
        "tuple": (1, (2, [3])), "odd keys": {0: "a", 1.5: "b", None: "c", (1, 2): "d", True: "e"},
        "~": "a key of ours", "nested": {"~": {"~": 1}},
        "set": {3, 1, 2}, "frozen": frozenset({"x", "y"}), "bytes": b"\x00\xff", "array of bytes": bytearray(b"ab"),
        "complex": complex(-0.0, float("inf")), "ordered": OrderedDict(b=1, a=2), "counter": Counter("hello"),
        "deque": deque([1, 2], maxlen=5), "scalar": np.float32(1.5), "flag": np.bool_(True), "dtype": np.dtype("int16"),
        "path": Path("a/b"), "array": np.arange(6).reshape(2, 3),
    }  # fmt: skip
    loaded = saved_and_loaded(tmp_path, value)
    for key, kept in value.items():
        assert same(kept, loaded[key]), key
    assert list(loaded) == list(value)


@pytest.mark.parametrize(
    "name",
    ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
     "complex64", "complex128"],
)  # fmt: skip
def test_arrays(tmp_path: Path, name: str) -> None:
    """Arrays of every dtype, shape and layout come back with their bits."""
    raw = np.random.default_rng(0).integers(0, 256, 16 * 24, np.uint8)
    if name == "bool":
        raw &= 1
    whole = np.frombuffer(raw.tobytes(), name)[:24].copy()
    cube = whole[: len(whole) // 12 * 12].reshape(3, 4, -1)
    value = {
        "flat": whole, "cube": cube, "turned": cube.T, "every other": whole[::2], "backwards": whole[::-1], "column": cube[:, 1:2],
        "none": whole[:0], "no rows": np.empty((0, 3), name), "point": whole[:1].reshape(()), "read only": np.frombuffer(raw.tobytes(), name),
        "fortran": np.asfortranarray(cube), "broadcast": np.broadcast_to(whole[:1], (5, 1)),
        "swapped": whole.astype(whole.dtype.newbyteorder(">")),
    }  # fmt: skip
    loaded = saved_and_loaded(tmp_path, value)
    for key, array in value.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert same(np.ascontiguousarray(native).reshape(native.shape), loaded[key]), key


def test_dtypes_that_numpy_lacks(tmp_path: Path) -> None:
    """bfloat16 and the 8-bit floats work with ml_dtypes; a loader without it is told what to install."""
    ml_dtypes = need("ml_dtypes")
    value = {name: np.arange(7).astype(getattr(ml_dtypes, name)) for name in ["bfloat16", "float8_e4m3fn", "float8_e5m2"]}
    loaded = saved_and_loaded(tmp_path, value)
    assert all(same(value[name], loaded[name]) for name in value)
    without = """
        import sys
        sys.modules["ml_dtypes"] = None
        import tpde
        tpde.load("run@0", "bfloat16", store=sys.argv[1])
    """
    assert "Install ml_dtypes" in finished(python(without, tmp_path / "store"), code=1)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    """The package saves, resumes and loads in a process that has no torch and no jax."""
    code = """
        import sys
        sys.modules["torch"] = sys.modules["jax"] = None
        import numpy as np, tpde
        state = {"w": np.arange(10.0)}
        with tpde.open(sys.argv[1], run="r") as run:
            run.save(3, state=state, rng=True)
        state["w"] += 1
        with tpde.open(sys.argv[1], run="r") as run:
            assert run.resume(state=state, rng=True) == 4
        assert state["w"][9] == 9.0
        assert tpde.load("r@3", store=sys.argv[1], file="state.safetensors")["w"][1] == 1.0
        print("torch" in sys.modules and sys.modules["torch"] is not None)
    """
    assert "False" in finished(python(code, tmp_path / "store"))


def test_files_that_others_read(tmp_path: Path) -> None:
    """A restored checkpoint is safetensors files, under the names of the state, and one JSON file."""
    safetensors = need("safetensors.numpy")
    weights = {"layer.0.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "layer.0.bias": np.ones(2, np.float16)}
    with open_run(tmp_path) as run:
        run.save(0, model=weights, extra={"epoch": 3})
        run.flush()
        run.restore(0, tmp_path / "out")
    loaded = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert loaded.keys() == weights.keys()
    assert all(same(loaded[name], weights[name]) for name in weights)
    state = json.loads((tmp_path / "out" / "tpde-state.json").read_text())
    assert state["components"]["extra"] == {"epoch": 3}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"f": print}, "extra.f: an object of builtins.builtin_function_or_method"),
        ({"a": [{"b": object()}]}, "extra.a[0].b: an object of builtins.object"),
        ({"a": np.array(["text"])}, "extra.a: an array of <U4"),
        ({"a": np.array([object()])}, "extra.a: an array of object"),
        ({"a": np.zeros(2, [("x", "f4")])}, "extra.a: an array of"),
        ({"a": np.array(["2026-11-28"], "M8[D]")}, "extra.a: an array of datetime64"),
        ({"a": np.zeros(2, np.longdouble)}, "extra.a: an array of"),
    ],
)
def test_what_is_no_data(tmp_path: Path, value: dict[str, Any], words: str) -> None:
    """What cannot be kept is one error that names the place and the type; the run goes on."""
    with open_run(tmp_path) as run:
        with pytest.raises(tpde.InputError) as raised:
            run.save(0, extra=value)
        assert words in str(raised.value)
        run.save(0, extra={"fine": 1}).wait()
        assert [row["step"] for row in run.log()] == [0]


def test_a_state_that_contains_itself(tmp_path: Path) -> None:
    """A loop in a state is told, and is no endless recursion; the same thing twice is no loop."""
    loop: dict[str, Any] = {}
    loop["again"] = [loop]
    twice = [1, 2]
    with open_run(tmp_path) as run:
        with pytest.raises(tpde.InputError, match="contains itself"):
            run.save(0, extra=loop)
        run.save(0, extra={"a": twice, "b": twice}).wait()


def test_pickles_are_asked_for(tmp_path: Path) -> None:
    """An object is pickled only if the caller says so, and opened only if the caller says so."""
    value = {"cut": slice(1, 2)}
    with open_run(tmp_path) as run:
        run.save(0, extra=value, allow_pickle=True).wait()
        loaded: dict[str, Any] = {}
        with pytest.raises(tpde.InputError, match="allow_pickle=True"):
            run.rewind(0, extra=loaded)
        assert loaded == {}
        run.rewind(0, extra=loaded, allow_pickle=True)
        assert loaded == value
        with pytest.raises(tpde.InputError, match="cannot be pickled"):
            run.save(1, extra={"f": lambda: 0}, allow_pickle=True)


def test_names(tmp_path: Path) -> None:
    """Names that look alike stay apart, and odd ones work."""
    one = np.ones(1)
    value = {"a.b": one, "a": {"b": one * 2}, "": one * 3, "__metadata__": one * 4, "x/../y": one * 5, "ž\n": one * 6}
    loaded = saved_and_loaded(tmp_path, value)
    assert same(loaded, value)
    with open_run(tmp_path) as run, pytest.raises(tpde.InputError, match="component"):
        run.save(1, **{"../evil": value})


def test_the_command_is_in_the_wheel(tmp_path: Path) -> None:
    """`python -m tpde` is the tpde command, with its output and exit codes."""
    with open_run(tmp_path) as run:
        run.save(7, extra={"a": 1}, metrics={"loss": 0.5}, note="a note")
    variables = {**os.environ, "TPDE_STORE": str(tmp_path / "store"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tpde"]
    log = subprocess.run([*command, "log", "run"], env=variables, capture_output=True, text=True, check=True)
    assert "loss" in log.stdout
    missing = subprocess.run([*command, "show", "run@8"], check=False, env=variables, capture_output=True, text=True)
    assert missing.returncode != 0
    assert "step 8 of run run was not found" in missing.stderr
