"""Editor-format files: to graphs and back, and edits that keep the layout.

Pure: knows no server and no network.
"""
