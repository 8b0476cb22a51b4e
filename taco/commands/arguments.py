"""The flags of `taco export` as typer types: names, help, panels. Commands that share a flag share its type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from taco.options import WITHIN_MINUTES, Calibration, Pattern, SplitBy

TASK, MODEL, SIZE, RUN, EXPERT = "The task", "The model", "How small, how fast", "The run", "For experts"

Task = Annotated[
    Path | None,
    typer.Argument(
        help="Your pictures: a folder with one folder for each class, a CSV with the columns path,label, a COCO or "
        "COCO Camera Traps JSON, or a Camtrap DP package. Not needed where taco.toml names it, or with --from.",
        show_default=False,
    ),
]
Target = Annotated[str, typer.Option(help="The device; `taco targets` lists them.", rich_help_panel=RUN)]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the result.", show_default="runs/TARGET", rich_help_panel=RUN),
]
Classes = Annotated[
    str | None,
    typer.Option(help="Only these classes, separated by commas.", show_default="all", rich_help_panel=TASK),
]
Shots = Annotated[int, typer.Option(help="Labelled pictures a class to learn from.", rich_help_panel=TASK)]
Evaluation = Annotated[
    Path | None,
    typer.Option(
        "--eval",
        help="Pictures to judge the result on, in any form that TASK may have.",
        show_default="what the shots leave",
        rich_help_panel=TASK,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where the file names in a CSV or JSON start.",
        show_default="the folder of that file",
        rich_help_panel=TASK,
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="MegaDetector's JSON for these pictures. The model then learns from the animals, cut out of the frames.",
        rich_help_panel=TASK,
    ),
]
Crop = Annotated[
    bool | None,
    typer.Option(
        "--crop/--no-crop",
        help="Look at the boxes around the animals, or at whole frames.",
        show_default="boxes where there are any",
        rich_help_panel=TASK,
    ),
]
ClassMap = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="JSON or CSV: class -> ImageNet index or synset.", rich_help_panel=TASK),
]
Sure = Annotated[
    float,
    typer.Option(
        metavar="PERCENT",
        help="How many percent of the model's sure answers should be right. The answers below are marked for you "
        "to look at.",
        rich_help_panel=TASK,
    ),
]
Model = Annotated[str, typer.Option(help="Any timm model.", rich_help_panel=MODEL)]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Weights, .safetensors or .pth.",
        show_default="an installed weight package, else timm's hub",
        rich_help_panel=MODEL,
    ),
]
Head = Annotated[
    Literal["auto", "imagenet", "fit", "keep"],
    typer.Option(
        help="auto: cut ImageNet's head to your classes if all are known, unless a fitted one is surely better in "
        "cross-validation; else fit. keep: your checkpoint's own.",
        rich_help_panel=MODEL,
    ),
]
FineTune = Annotated[
    bool,
    typer.Option(
        "--fine-tune",
        help="Also try a light fine-tune of the last blocks on your shots; kept where cross-validation surely gains by "
        "it. Takes minutes.",
        rich_help_panel=MODEL,
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="PIXELS",
        help="Let the compressed model read pictures with so many pixels on the shorter side, as in 160: less time in "
        "every layer, less detail. auto, with --max-drop and --allocation latency: the size competes with widths. "
        "Everything is compared with the dense model at its own size.",
        show_default="the model's own",
        rich_help_panel=SIZE,
    ),
]
Speedup = Annotated[
    float | None,
    typer.Option(help="At least this many times as fast as the dense model, MEASURED.", rich_help_panel=SIZE),
]
LatencyMs = Annotated[
    float | None,
    typer.Option(
        metavar="MS", help="At most so many milliseconds a picture on the target, MEASURED.", rich_help_panel=SIZE
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="The fastest model that loses at most so many points of accuracy on held-out shots. Many shots make this "
        "sure, few make it a guess; the report tells the drop on unseen pictures.",
        rich_help_panel=SIZE,
    ),
]
Macs = Annotated[
    float | None,
    typer.Option(
        help="Keep this share of the multiply-accumulates (1 = cut nothing).",
        show_default="the target's own",
        rich_help_panel=SIZE,
    ),
]
MaxBytes = Annotated[
    float | None,
    typer.Option(metavar="BYTES", help="The model file takes at most so many bytes, as in 4e6.", rich_help_panel=SIZE),
]
MaxMacs = Annotated[
    float | None,
    typer.Option(
        metavar="N", help="One picture takes at most so many multiply-accumulates, as in 2e8.", rich_help_panel=SIZE
    ),
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        metavar="BYTES",
        help="Activations of one picture take at most so many bytes at a time, as torch runs it; a runtime that works "
        "in place needs less.",
        rich_help_panel=SIZE,
    ),
]
GateDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Ship nothing that loses more points of accuracy against the dense model.",
        show_default="no such gate",
        rich_help_panel=SIZE,
    ),
]
GateClassDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Ship nothing that loses more points of the recall of any class.",
        show_default="no such gate",
        rich_help_panel=SIZE,
    ),
]
BlankRecall = Annotated[
    float,
    typer.Option(
        metavar="PERCENT",
        help="Where there is a class blank (empty frames): ship nothing that surely recognises fewer percent of them. "
        "A filter that misses most empty frames saves nobody work. 0 is no such gate; fewer than 30 empty frames are "
        "too few to decide.",
        rich_help_panel=TASK,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Ship what a gate refuses; bundle and report are marked.", rich_help_panel=RUN)
]
BakePreprocessing = Annotated[
    bool | None,
    typer.Option(
        "--bake-preprocessing/--no-bake",
        help="Also ship the model with uint8 pixels in and probabilities out, so that a device has only to resize.",
        show_default="for CPUs that are not this machine",
        rich_help_panel=RUN,
    ),
]
RuntimeDevice = Annotated[
    Literal["CPU", "GPU", "NPU"] | None,
    typer.Option(
        metavar="DEVICE",
        help="CPU, GPU or NPU, for a target with OpenVINO; never another one in its place.",
        show_default="the target's own",
        rich_help_panel=EXPERT,
    ),
]
Device = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Your device, through your own ssh: ssh://[user@]host. It is measured, judged and given the result. "
        "`taco devices doctor` tells what it lacks. Give it again for more devices of the same kind: the first "
        "decides, all are measured at the same time, and the slow one is named.",
        show_default="none: nothing is measured on one",
        rich_help_panel=RUN,
    ),
]
OneDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="URL",
        help="Your device, through your own ssh: ssh://[user@]host.",
        show_default="this machine",
        rich_help_panel=RUN,
    ),
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Make this share of the weights zero, as in 0.9. The file to send becomes much smaller; the model does "
        "NOT become faster (the report measures it).",
        rich_help_panel=SIZE,
    ),
]
SparsityPattern = Annotated[
    Pattern | None,
    typer.Option(
        metavar="PATTERN",
        help="unstructured: any weights. 2:4: two of every four. 4-block: four neighbours together.",
        show_default="unstructured, where --sparsity is given",
        rich_help_panel=SIZE,
    ),
]
Include = Annotated[
    str | None,
    typer.Option(
        metavar="GLOBS",
        help="Only these layers become sparse: names as `taco database show` lists them, * and ? allowed, separated by "
        "commas.",
        show_default="all but the first convolution and the head",
        rich_help_panel=EXPERT,
    ),
]
Exclude = Annotated[
    str | None,
    typer.Option(
        metavar="GLOBS", help="These layers stay dense, as in '*.conv_dw'.", show_default="none", rich_help_panel=EXPERT
    ),
]
Solver = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="How a layer's sparse weights are found: admm, exactobs, fastobc, magnitude_refit, magnitude, or one of "
        "another package. auto: admm, and fastobc for very wide layers.",
        rich_help_panel=EXPERT,
    ),
]
Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential/--no-sequential",
        help="Solve layers once more in the model's order, each for the inputs that those before it have left: sparse "
        "layers and, without recovery, those that read cut channels. Kept where the select pictures say that it helps.",
        rich_help_panel=EXPERT,
    ),
]
Damping = Annotated[
    float | None,
    typer.Option(
        help="Added to the diagonal of the second moments, as a multiple of its mean.",
        show_default="chosen for every layer on held-out pictures",
        rich_help_panel=EXPERT,
    ),
]
CalibrationOn = Annotated[
    Calibration,
    typer.Option(
        metavar="WHAT",
        help="task: compress with your own pictures. agnostic: with other ones, to see what your own are worth.",
        rich_help_panel=EXPERT,
    ),
]
AgnosticImages = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Pictures of anything, for --calibration agnostic; as many as your shots are drawn from them.",
        rich_help_panel=EXPERT,
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        help="Where layers are solved: local, local:N (processes), dask://HOST:PORT, or ray.",
        rich_help_panel=EXPERT,
    ),
]
RecoverMinutes = Annotated[
    float,
    typer.Option(
        help="Minutes of distillation after cutting; 0 is none. Where none are given, taco-export takes "
        f"{WITHIN_MINUTES:g} with --max-drop.",
        rich_help_panel=SIZE,
    ),
]
Compute = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        help="Where the distillation computes: auto takes an NVIDIA GPU that torch sees, or else this processor; cpu, "
        "cuda and cuda:N insist.",
        rich_help_panel=EXPERT,
    ),
]
Unlabelled = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Frames of your site without labels, at any depth; the small model learns from them too. Copies of the "
        "pictures that judge it are left out.",
        rich_help_panel=TASK,
    ),
]
FromRun = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Begin from an earlier run: its pictures, its flags and its finished work, but for the flags given "
        "now. Made for a second device: --from runs/a --target T2. With --max-drop and --allocation latency that also "
        "takes RUN's widths where the second device's clock finds hardly anything faster.",
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Settings, one flag a line; flags given here win.",
        show_default="taco.toml in TASK or beside it",
        rich_help_panel=RUN,
    ),
]
Dump = Annotated[
    bool,
    typer.Option(
        "--dump-config", help="Print a taco.toml of the options in force, and do nothing.", rich_help_panel=RUN
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the plan, do nothing.", rich_help_panel=RUN)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=RUN)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Every detail.", rich_help_panel=RUN)]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print report.json on stdout.", rich_help_panel=RUN)]
SplitWhat = Annotated[
    SplitBy,
    typer.Option(
        metavar="WHAT",
        help="location, sequence or image: what has no pictures both to learn from and to judge on, so that the "
        "accuracy holds for new places or bursts. auto: the first of them that your pictures tell.",
        rich_help_panel=EXPERT,
    ),
]
MinConfidence = Annotated[float, typer.Option(help="Boxes less sure than this are no animals.", rich_help_panel=EXPERT)]
MaxImages = Annotated[int, typer.Option(help="Most pictures read of a class; 0 is all.", rich_help_panel=EXPERT)]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the timed model.", show_default="every core", rich_help_panel=EXPERT)
]
Seed = Annotated[int, typer.Option(help="Draws shots, folds and views.", rich_help_panel=EXPERT)]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Load no weights: for trying speed only.", rich_help_panel=EXPERT)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=EXPERT)]
