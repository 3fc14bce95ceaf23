"""The demo server with the tests' equipment: faults, control routes, test nodes, variants of the cloud, a played Manager.

Run it as `scripts/demo_server.py`; it has the same flags and the following.

Examples:
    python3 tests/support/equipped_demo.py --port 0 --fault oom:node=KSampler,times=1
    python3 tests/support/equipped_demo.py --cloud --cloud-option refuse=PAYMENT_REQUIRED
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from aiohttp import web

import demo_server
from comfyskill.base import cli
from comfyskill.demo.application import Demo
from comfyskill.demo.definitions import Definitions
from comfyskill.demo.options import Options
from comfyskill.demo.routes import Handler, Route
from equipment import cloud, fault_list, http_faults, manager, nodes
from equipment.control import Control
from equipment.faults import Faults, FaultyEngine, FaultyHub
from equipment.manager_routes import ManagedDefinitions, ManagerRoutes

# Moments at which a fault may strike before a request is carried out: the path without /api, and the moment.
BEFORE = {
    "/prompt": "submit",
    "/view": "view",
    "/upload/image": "upload",
    "/upload/mask": "upload",
    "/ws": "connect",
}


class EquippedDemo(Demo):
    """The demo server, observed and disturbed."""

    def __init__(
        self, options: Options, faults: list[str], switches: dict[str, str], shape: str | None
    ) -> None:
        self.faults = Faults(faults)
        self.switches = switches
        self.shape = shape
        super().__init__(options)
        self.control = Control(self, self.engine, self.faults)
        self.faults.restart = self.control.restart_now
        self.faults.before_exit = self.folders.close
        if isinstance(self.cloud, cloud.VariedCloud):
            self.control.on_reset.append(self.cloud.jobs.forget)
        self.manager = ManagerRoutes(self.definitions, shape, self.control.restart_now) if shape else None

    def make_definitions(self) -> Definitions:
        options = self.options
        kind = ManagedDefinitions if self.shape else Definitions
        made = kind(options.newest, options.models, self.folders, options.definitions)
        made.compact.update(nodes.DEFINITIONS)
        return made

    def make_hub(self) -> FaultyHub:
        return FaultyHub(self.faults, self.info.features)

    def make_engine(self) -> FaultyEngine:
        return FaultyEngine(self.faults, self.options, self.folders, self.definitions, self.hub)

    def make_cloud(self) -> cloud.VariedCloud:
        return cloud.VariedCloud(self.switches, self)

    def routes(self) -> list[Route]:
        return [*super().routes(), *self.control.routes(), *(self.manager.routes() if self.manager else [])]

    def middlewares(self) -> list[Any]:
        return [self.meddle, *super().middlewares()]

    @web.middleware
    async def meddle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log the request and apply the faults. The control routes are exempt."""
        if request.path.startswith("/demo/"):
            return await handler(request)
        entry = await self.control.note(request)
        if self.faults.active or self.faults.down_until:
            answer = await http_faults.strike(self.faults, request, self.at_moments(handler))
        else:
            answer = await handler(request)
        entry["status"] = answer.status
        return answer

    def at_moments(self, handler: Handler) -> Handler:
        """The handler, with the moments before it and behind it at which a fault may strike."""

        async def handle(request: web.Request) -> web.StreamResponse:
            path = http_faults.route_of(request.path)
            submit = path == "/prompt" and request.method == "POST"
            if path in BEFORE and (submit or path != "/prompt"):
                self.faults.moment(BEFORE[path])
            if path == "/ws":
                refused = self.faults.strike("no-socket")
                if refused is not None:
                    return web.Response(status=int(refused.number("code", 404)))
                if self.faults.strike("hang-socket") is not None:
                    await asyncio.sleep(3600)
            answer = await handler(request)
            if submit and answer.status == 200:
                self.faults.moment("accepted")
            return answer

        return handle


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = demo_server.make_parser()
    parser.description = __doc__
    parser.epilog = f"{fault_list.table()}\n\n{cloud.table()}"
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="a fault, see below (repeatable)"
    )
    parser.add_argument(
        "--cloud-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variant of the cloud, see below",
    )
    parser.add_argument(
        "--manager",
        choices=manager.SHAPES,
        help="play ComfyUI-Manager: the node packs are missing until it installs them; models that it fetches are only names",
    )
    return parser.parse_args(argv)


def serve(args: argparse.Namespace) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C."""
    try:
        if args.cloud and args.manager:
            raise ValueError("--cloud and --manager exclude each other: Comfy Cloud's nodes are fixed")
        for fault in args.fault:
            fault_list.read_fault(fault)
        switches = cloud.read_switches(args.cloud_option)
    except ValueError as error:
        raise cli.Misuse(str(error), hint="see --help") from error
    return demo_server.run(args, lambda options: EquippedDemo(options, args.fault, switches, args.manager))


if __name__ == "__main__":
    sys.exit(cli.main(parse_args, serve, None, show=demo_server.show))
