"""What tests add to the demo server: faults, a log of requests, variants of the cloud, a played ComfyUI-Manager."""
