"""The agent's commands for a device in the field: put a bundle in use, go back, watch a folder."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, NoReturn

from taco.device import versions
from taco.device.answers import facts_of
from taco.device.commands import folder_of, read_json
from taco.device.deploy import FOLDER, deploy, roll_back
from taco.device.naming import Namer, read_bundle_json
from taco.device.watch import Means, WatchAsked, Watcher
from taco.device.wire import DeviceError

WATCH_HELP = """Names pictures as they arrive in a folder, and below it, until it is stopped: part-NNNNNN.json
(MegaDetector's format) and part-NNNNNN.csv of at most so many frames each. No frame is named twice and none is lost, a
power cut included. Pictures are only read. Where BUNDLE is the link `current`, a bundle that is deployed later takes
over by itself."""


def add_commands(made: Any) -> Any:
    """Add the commands to a parser's; returns their parsers."""
    watch = made.add_parser(
        "watch", help="name new pictures of a folder for as long as it runs", description=WATCH_HELP
    )
    watch.add_argument("bundle", metavar="BUNDLE", help="the folder of a bundle, or the link to the one in use")
    watch.add_argument("pictures", metavar="PICTURES", help="the folder where pictures arrive")
    watch.add_argument("results", metavar="RESULTS", help="the folder where results go")
    for flag, default, text in (
        ("settle", WatchAsked.settle_s, "a picture must have stayed as it is for so long"),
        ("patience", WatchAsked.patience_s, "one that cannot be read is tried again for so long"),
        ("poll", WatchAsked.poll_s, "pause between two looks at the folder"),
        ("publish", WatchAsked.publish_s, "how often results are written while pictures keep coming"),
    ):
        watch.add_argument(
            f"--{flag}", metavar="SECONDS", type=float, default=default, help=f"{text} (default: {default:g})"
        )
    watch.add_argument("--part", metavar="FRAMES", type=int, default=WatchAsked.part_frames, help="frames of one part")
    watch.add_argument(
        "--keep", metavar="PARTS", type=int, default=0, help="finished parts that stay; 0 is all of them"
    )
    watch.add_argument("--threads", type=int, default=0, help="threads of the model; every core if not given")
    watch.add_argument("--once", action="store_true", help="end when every picture there has been named")
    watch.set_defaults(command=watch_pictures, exclusive=False)
    put = made.add_parser("deploy", help="put a bundle in place by a JSON request, and use it")
    put.add_argument("request", metavar="REQUEST.json")
    put.set_defaults(command=deploy_bundle, exclusive=True)
    back = made.add_parser("rollback", help="use the bundle that was in use before; run it in the work folder")
    back.add_argument("--from", dest="leaving", metavar="NAME", help="only where this is the version in use")
    back.set_defaults(command=roll_back_bundle, exclusive=True)
    listing = made.add_parser("versions", help="list the bundles here and the one in use; run it in the work folder")
    listing.set_defaults(command=list_versions, exclusive=False)
    return [watch, put, back, listing]


def deploy_bundle(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Put a bundle in place, try it, and use it."""
    return deploy(read_json(arguments.request), folder_of(arguments.request), _check)


def roll_back_bundle(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Use the bundle that was in use before."""
    return roll_back(".", _check, arguments.leaving)


def list_versions(_arguments: argparse.Namespace) -> Dict[str, Any]:
    """List the bundles, in the order in which they came."""
    return {"current": versions.current(FOLDER), "history": versions.history(FOLDER)}


def watch_pictures(arguments: argparse.Namespace) -> Dict[str, Any]:
    """Watch a folder; a bundle that is put in this one's place goes on with its own agent."""
    asked = WatchAsked(
        pictures=os.path.abspath(arguments.pictures),
        results=os.path.abspath(arguments.results),
        settle_s=arguments.settle,
        patience_s=arguments.patience,
        poll_s=arguments.poll,
        publish_s=arguments.publish,
        part_frames=arguments.part,
        keep=arguments.keep,
        once=arguments.once,
    )
    asked.check()
    bundle = os.path.realpath(arguments.bundle)
    namer = Namer(bundle, arguments.threads)
    # From here on nothing more may be imported from our own archive: another one may lie under its name.
    facts = facts_of(namer.manifest, os.path.basename(bundle))
    means = Means(namer.shares, facts, lambda: os.path.realpath(arguments.bundle) != bundle, tell=_tell)
    _tell(f"watching {asked.pictures!r} with {facts['version']}, results in {asked.results!r}")
    if facts["crops"]:
        _tell("this bundle learned from boxes around animals and gets whole frames here")
    try:
        watcher = Watcher(asked, means)
        if watcher.run():
            _tell("another bundle takes over")
            _start_again(os.path.join(os.path.realpath(arguments.bundle), "agent.pyz"))
    except OSError as error:
        raise DeviceError(
            f"the results in {asked.results!r} cannot be written: {error.strerror or error}",
            "Free some space. Nothing is lost: what is not noted yet is named again.",
        ) from error
    return {"named": watcher.named}


def _check(folder: str) -> None:
    """Run the bundle once. One for TensorRT holds the engine that this device has built, judged and timed already."""
    if read_bundle_json(os.path.join(folder, "manifest.json")).get("runtime") != "trt":
        Namer(folder).check()


def _start_again(agent: str) -> NoReturn:
    """Become the agent of another bundle, with the same command."""
    if not os.path.isfile(agent):
        raise DeviceError(f"there is no agent {agent!r} to go on with", "Deploy the bundle again.")
    sys.stdout.flush()
    sys.stderr.flush()
    isolated = ["-I"] if sys.flags.isolated else []
    os.execv(sys.executable, [sys.executable, *isolated, agent, *sys.argv[1:]])  # noqa: S606


def _tell(line: str) -> None:
    print(line.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr, flush=True)
