"""Arrays of torch, numpy and jax: what they are, where their bytes stand, and new ones to load into.

None of the libraries is imported here unless the caller's process has: an array can only be there if its library is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tpde._errors import InputError

#: Dtypes by the names that torch, numpy and ml_dtypes have for them, as safetensors calls them.
_CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
_NAMES = {code: name for name, code in _CODES.items()}

#: Kept as pairs of doubles, for safetensors has no name for it.
COMPLEX128 = "complex128"


class Array(NamedTuple):
    """An array that is to be saved."""

    #: The library: ``torch``, ``numpy`` or ``jax``.
    library: str
    #: As safetensors names it.
    dtype: str
    shape: tuple[int, ...]
    len_bytes: int
    #: Where its bytes stand in C order; ``None`` if they do not, and must be gathered.
    address: int | None
    #: What holds them: an array of torch or numpy.
    held: Any
    #: A dtype that has no name of its own in the file.
    was: str | None


def torch_or_none() -> Any:
    """The torch module, if this process has it."""
    return sys.modules.get("torch")


def code_of(dtype: Any) -> str | None:
    """What safetensors calls a dtype of torch; ``None`` if it has no name for it."""
    return _CODES.get(str(dtype).removeprefix("torch."))


def look(value: Any, path: str) -> Array | None:
    """``value`` as an array to be saved; ``None`` if it is none.

    * ``path``: what to call it in an error.

    Raises :class:`InputError` for an array that cannot be saved as it is.
    """
    torch = torch_or_none()
    if torch is not None and isinstance(value, torch.Tensor):
        return _look_torch(torch, value, path)
    if isinstance(value, np.ndarray):
        return _look_numpy(value, path, "numpy")
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        return _look_jax(jax, value, path)
    return None


def _refused(path: str, what: str, hint: str) -> InputError:
    return InputError(f"{path}: {what}. {hint}")


def _look_torch(torch: Any, value: Any, path: str) -> Array:
    value = value.detach()
    if hasattr(value, "to_local"):
        raise _refused(
            path, "it is a DTensor, of which this process has a part",
            "Save it with tpde.torch.dcp, which knows about shards",
        )  # fmt: skip
    if value.device.type == "meta":
        raise _refused(path, "it is a meta tensor, which has no values", "Materialise the module before saving")
    if value.layout != torch.strided:
        raise _refused(path, f"it is sparse ({value.layout})", "Save value.to_dense(), or its indices and values as two tensors")
    if value.is_quantized:
        raise _refused(path, "it is a quantised tensor", "Save value.int_repr() and its scales as tensors")
    if value.device.type != "cpu":
        raise _refused(
            path, f"it is on {value.device}, and this version copies tensors of the CPU only",
            "Save a copy: value.cpu()",
        )  # fmt: skip
    name = str(value.dtype).removeprefix("torch.")
    was = None
    value = value.resolve_conj().resolve_neg()
    if name == COMPLEX128:
        value, was, code = torch.view_as_real(value), COMPLEX128, "F64"
    elif name in _CODES:
        code = _CODES[name]
    else:
        raise _refused(path, f"{value.dtype} has no counterpart in a checkpoint", "Convert it, or view it as torch.uint8")
    len_bytes = value.numel() * value.element_size()
    address = value.data_ptr() if value.is_contiguous() else None
    return Array("torch", code, tuple(value.shape), len_bytes, address, value, was)


def _look_numpy(value: Any, path: str, library: str) -> Array:
    name = value.dtype.name
    was = None
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if name == COMPLEX128:
        value, was, code = value.copy(order="C")[..., None].view(np.float64), COMPLEX128, "F64"
    elif value.dtype.names is None and name in _CODES:
        code = _CODES[name]
    else:
        raise _refused(
            path, f"an array of {value.dtype} has no counterpart in a checkpoint",
            "Convert it to numbers, or view it as numpy.uint8",
        )  # fmt: skip
    address = value.__array_interface__["data"][0] if value.flags.c_contiguous else None
    return Array(library, code, tuple(value.shape), value.nbytes, address, value, was)


def _look_jax(jax: Any, value: Any, path: str) -> Array:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise _refused(path, "it is a key of jax.random", "Save jax.random.key_data(key), and wrap it again after loading")
    if not value.is_fully_addressable:
        raise _refused(path, "this process has only some of its shards", "Gather it first, or save the shards by name")
    if any(device.platform != "cpu" for device in value.devices()):
        raise _refused(path, "it is not on the CPU", "Save a copy: jax.device_get(value)")
    return _look_numpy(np.asarray(value), path, "jax")


def gather(array: Array, target: memoryview) -> None:
    """Copies an array whose bytes do not stand in C order into ``target``, of as many bytes."""
    if array.library == "torch":
        torch = torch_or_none()
        torch.frombuffer(target, dtype=array.held.dtype).view(array.held.shape).copy_(array.held)
    else:
        np.copyto(np.frombuffer(target, array.held.dtype).reshape(array.held.shape), array.held, casting="no")


class Empty(NamedTuple):
    """An array that was made to be filled."""

    #: What the caller gets.
    array: Any
    address: int
    len_bytes: int
    #: What makes the caller's array of it, once it is filled.
    finish: Callable[[Any], Any]


def _finish_nothing(array: Any) -> Any:
    return array


def empty(library: str, dtype: str, shape: tuple[int, ...], was: str | None, path: str) -> Empty:
    """A new array to load into.

    * ``library``: ``torch``, ``numpy`` or ``jax``.
    * ``dtype``: as safetensors names it.
    * ``was``: as :class:`Array` has it.

    Raises :class:`InputError` if the library has no such dtype.
    """
    if library == "torch":
        import torch

        name = _NAMES.get(dtype)
        if name is None or not hasattr(torch, name):
            raise _refused(path, f"torch has no dtype for {dtype}", "Load it with framework='numpy', or restore the file")
        array = torch.empty(shape, dtype=getattr(torch, name))
        pairs = torch.view_as_complex if was == COMPLEX128 else _finish_nothing
        return Empty(array, array.data_ptr(), array.numel() * array.element_size(), pairs)
    made = np.empty(shape, numpy_dtype(dtype, path))
    address = made.__array_interface__["data"][0]
    finish = _from_pairs if was == COMPLEX128 else _finish_nothing
    if library == "jax":
        import jax

        return Empty(made, address, made.nbytes, lambda array: jax.numpy.asarray(finish(array)))
    return Empty(made, address, made.nbytes, finish)


def _from_pairs(array: Any) -> Any:
    return array.view(np.complex128).reshape(array.shape[:-1])


def numpy_dtype(code: str, path: str) -> np.dtype[Any]:
    """Numpy's dtype for one of safetensors, with the help of ml_dtypes where numpy lacks it."""
    name = _NAMES.get(code)
    if name is None:
        raise _refused(path, f"numpy has no dtype for {code}", "Restore the file instead: run.restore(...)")
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ImportError:
        hint = "Install ml_dtypes, or load it with framework='torch'"
        raise _refused(path, f"numpy has no dtype for {code}", hint) from None
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found
