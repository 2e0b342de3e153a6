if __name__ != "foreshore.edge":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.edge, not edge")
