"""What every command needs and what knows nothing about ComfyUI: the JSON document and exit codes, cleaned text, files and
paths, child programs, flags, the cache.

Imports nothing else of this skill.
"""
