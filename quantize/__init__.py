if __name__ != "foreshore.quantize":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.quantize, not quantize")
