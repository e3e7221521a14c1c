"""Compiles one program for several architectures with the NVRTC of the Python package: source on stdin, PTX on stdout.

Usage: nvrtc.py NAME OPTIONS ARCHITECTURE...: for each architecture, a line `// ARCHITECTURE` and its PTX. OPTIONS are split at commas.
"""

import ctypes
import pathlib
import sys
import sysconfig


def library():
    folder = pathlib.Path(sysconfig.get_path("purelib"), "nvidia", "cuda_nvrtc", "lib")
    # NVRTC looks for its own headers by name, which finds a library that is loaded already.
    for name in sorted(folder.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))


def text_of(nvrtc, program, size, fill):
    count = ctypes.c_size_t()
    size(program, ctypes.byref(count))
    text = ctypes.create_string_buffer(count.value)
    fill(program, text)
    return text.value.decode()


def ptx(nvrtc, name, source, options):
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None)
    encoded = [option.encode() for option in options]
    result = nvrtc.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
    if result != 0:
        log = text_of(nvrtc, program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        sys.exit(f"{name} {' '.join(options)}: error {result}\n{log}")
    text = text_of(nvrtc, program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return text


def main():
    name, options, *architectures = sys.argv[1:]
    source = sys.stdin.buffer.read()
    nvrtc = library()
    for architecture in architectures:
        flags = [f"--gpu-architecture={architecture}", *options.split(",")]
        print(f"// {architecture}\n{ptx(nvrtc, name, source, flags)}")


main()
