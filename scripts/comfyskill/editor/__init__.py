"""Editor-format files: to graphs and back, and edits that keep the layout.

Pure: no server, no network.
"""
