"""What TPDE has for torch beside :func:`tpde.open`: :mod:`tpde.torch.dcp` saves and loads for ``torch.distributed.checkpoint``."""
