"""The note on a run: what a person reads of it in MLflow."""

import sys

from pipeline.tracking.best_version import Quality
from pipeline.tracking.run_description import Purpose, command, note, with_qualities


def test_a_note_says_what_it_is_how_it_goes_on_and_where_the_model_is(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/jobs/train_cub.py", "--name", "my run", "--workers=2"])

    text = note(
        Purpose("RAT-GAN at 256 px", ("Model: `/runs/a/model`",)),
        on="8,855 images of `cub`",
        state="finished: 10 steps",
        run="/runs/a",
    )

    assert text == (
        "RAT-GAN at 256 px, trained on 8,855 images of `cub`.\n\n"
        "* State: finished: 10 steps\n"
        "* Quality: not measured under a named protocol yet\n"
        "* Folder: `/runs/a` (checkpoints, sample grids, and all that is in MLflow)\n"
        "* After a stop the same command goes on from the last checkpoint: "
        "`python jobs/train_cub.py --name 'my run' --workers=2`\n"
        "* Model: `/runs/a/model`\n"
    )


def test_measures_take_the_place_of_what_was_measured_before():
    text = note(Purpose("A model", ()), on="images", state="finished", run="/runs/a")
    first = with_qualities(text, [Quality("eval/fid", 12.34567, 2400, "clean", True)])

    again = with_qualities(first, [Quality("eval/fid", 9.0, 4800, r"clean\1", True)])

    assert "* Quality: eval/fid 12.35 at step 2,400 under protocol clean (lower is better)" in first
    assert again.count("* Quality:") == 1
    assert r"eval/fid 9 at step 4,800 under protocol clean\1" in again
    assert with_qualities(first, []) == text


def test_a_process_that_no_job_file_started_has_no_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/default_worker.py", "--node-ip=1"])

    assert command() == ""
