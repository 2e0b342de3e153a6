"""Builds on-device variants of a model and keeps them in the model store."""

if __name__ != "foreshore.quantize":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.quantize, not quantize")

from foreshore.quantize.builder import build
from foreshore.quantize.ftypes import ftypes
from foreshore.quantize.progress import OnProgress, Progress

__all__ = ["OnProgress", "Progress", "build", "ftypes"]
