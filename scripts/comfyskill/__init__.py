"""The code behind the commands, in packages. Imports point down this list and never up:

base < _common < graph, editor < server < source < run, deps < batch, jobs, info, trust < pages, machine < the commands.
The demo package imports base and graph; nothing imports it but demo_server.py.
"""

# The version of the whole skill. CHANGELOG.md says what each version changed, a test that all manifests agree.
__version__ = "1.0.0"
