"""API-format graphs: read them, name their parameters, fill, check and rewrite them.

Pure: no server, no network, no editor file.
"""
