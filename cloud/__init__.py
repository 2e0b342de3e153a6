if __name__ != "foreshore.cloud":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.cloud, not cloud")
