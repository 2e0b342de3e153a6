if __name__ != "foreshore.reliability":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.reliability, not reliability")
