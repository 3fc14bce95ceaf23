"""API-format graphs: read them, name their parameters, fill, check and rewrite them.

Pure: knows no server, no network and no editor file.
"""
