if __name__ != "foreshore.router":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.router, not router")
