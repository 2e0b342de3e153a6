"""Builds on-device variants of a model, measures them, and keeps them in the model store."""

if __name__ != "foreshore.quantize":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.quantize, not quantize")

from foreshore.quantize.builder import build, build_mix
from foreshore.quantize.fit_targets import FitTargets, parse_fit
from foreshore.quantize.ftypes import ftypes
from foreshore.quantize.measure import measure
from foreshore.quantize.onnx_builder import build_onnx
from foreshore.quantize.progress import OnProgress, Progress

__all__ = ["FitTargets", "OnProgress", "Progress", "build", "build_mix", "build_onnx", "ftypes", "measure", "parse_fit"]
