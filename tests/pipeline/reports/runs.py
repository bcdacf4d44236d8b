"""Small runs for reports, written by what writes real ones."""

from pathlib import Path

import torch

from pipeline.storage.folder import Folder
from pipeline.tracking.run_record import update_record
from pipeline.tracking.tracker import Tracker
from ratgan.visualize import grid, grid_with_boxes, png

CAPTIONS = ("a red circle", "a blue square", "a red circle")
COLOURS = ((220, 40, 30), (30, 60, 220), (40, 180, 70))


def make_run(
    folder: Path,
    *,
    captions=CAPTIONS,
    steps=(0, 10, 20),
    size=32,
    scale=4,
    layout=True,
    noise=False,
    status="FINISHED",
    **options: str,
) -> Path:
    """Write a run: options, curves, a grid of samples at some steps, and its end."""
    run = Folder(str(folder))
    tracker = Tracker(run)
    tracker.options(
        {"name": folder.name, **options}, {"git.commit": "c0ffee", "dataset.digest": "d1"}
    )
    tracker.json(
        {"seen": 5, "written": 4, "rejected": 1, "reasons": {"IMG_EMPTY": 1}},
        "dataset_manifest.json",
    )
    tracker.note("* the last checkpoint: nothing")
    tracker.begin(experiment="e", name=folder.name, tags={})
    generator = torch.Generator().manual_seed(0)
    for step in steps:
        tracker.metrics(step, {"loss/generator": 1.0 / (step + 1), "speed/images_per_s": 9.0})
        colours = torch.tensor([COLOURS[n % 3] for n in range(len(captions))], dtype=torch.uint8)
        images = colours[:, :, None, None].expand(-1, -1, size, size).clone()
        images[:, :, : step + 1] //= 2  # another picture at each step
        if noise:
            images = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
        picture, boxes = grid_with_boxes(images, captions, scale=scale)
        file = f"samples-{step:08d}"
        (run / "samples").write(f"{file}.png", png(picture))
        if layout:
            record = {"captions": list(captions), "boxes": boxes, "scale": scale}
            (run / "samples").write_json(f"{file}.json", record)
        tracker.image("samples", step, f"samples/{file}.png")
    if status != "RUNNING":
        tracker.finish(status)
    tracker.flush()
    update_record(run, status=status)
    return folder


def evaluation(run: Path, name: str, numbers: dict, *, count=64, **more) -> Path:
    """Write the report of an evaluation into a run."""
    folder = Folder(str(run / "evaluation" / name))
    images = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    folder.write("nearest.png", png(grid(images)))
    report = {
        "name": run.name,
        "model": {"step": 20},
        "protocol": {
            "name": "builtin",
            "extractor": "builtin",
            "resize": "antialias",
            "count": count,
        },
        "pair": None,
        "numbers": numbers,
        "kinds": dict.fromkeys(numbers, "distance"),
        "pictures": ["nearest.png"],
        **more,
    }
    folder.write_json("report.json", report)
    return run
