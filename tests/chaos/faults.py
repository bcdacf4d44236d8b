"""The faults that a run must survive, by number: how each is injected, and which test covers it.

    python -m tests.chaos.faults    the table as docs/faults.md has it

`schedule.py` draws random faults, two or more of these at once.
"""

import sys
from dataclasses import dataclass

CHAOS, PIPELINE = "tests/chaos/test_{}.py::test_{}", "tests/pipeline/{}.py::test_{}"
EVERY_CHANGE = (1, 2, 4, 7, 8, 12, 16, 19)  # shown before each change lands, in minutes


@dataclass(frozen=True)
class Fault:
    """Something that breaks.

    Attributes:
        number: Its place in the list, which reports and commits go by.
        name: What breaks.
        injected: How tests bring it about.
        expected: What happens then.
        tests: What shows it, as pytest names tests; run by `make test-all`.
        thorough: More of it, run by `make chaos`.
    """

    number: int
    name: str
    injected: str
    expected: str
    tests: tuple[str, ...]
    thorough: tuple[str, ...] = ()

    def row(self) -> str:
        """Return the fault as a row of a table in Markdown."""
        number = f"**{self.number}**" if self.number in EVERY_CHANGE else str(self.number)
        return f"| {number} | {self.name} | {self.injected} | {self.expected} |"


def _in(pattern: str, file: str, *names: str) -> tuple[str, ...]:
    return tuple(pattern.format(file, name) for name in names)


FAULTS = (
    Fault(
        1,
        "A worker is killed",
        "SIGKILL before a step, at each of 40",
        "replaced; training resumes from the last checkpoint, to the same weights",
        (
            *_in(
                CHAOS,
                "training_faults",
                "a_killed_worker_is_replaced_and_the_weights_are_the_same",
            ),
            *_in(
                PIPELINE,
                "training/test_exact_resume",
                "a_gan_resumed_from_any_step_does_the_next_one_bit_for_bit",
                "two_workers_resumed_from_any_step_do_the_next_one_bit_for_bit",
            ),
        ),
        _in(CHAOS, "kills", "a_worker_killed_at_every_step_is_replaced_each_time"),
    ),
    Fault(
        2,
        "Killed during a save",
        "SIGKILL at 11 points: before a write, an fsync, a rename and the marker, and after it",
        "the previous checkpoint is complete and used, to the same weights; no partial one appears",
        _in(
            PIPELINE,
            "training/test_exact_resume",
            "a_run_killed_anywhere_in_a_save_ends_as_one_that_was_not",
            "the_environment_kills_a_save_too",
        ),
    ),
    Fault(
        3,
        "The driver is killed",
        "SIGKILL of the command, with or without all processes that it started",
        "the same command resumes, to the same weights, in the same MLflow run",
        _in(PIPELINE, "training/test_train", "a_killed_job_goes_on_with_the_same_command"),
        _in(CHAOS, "kills", "a_driver_killed_alone_leaves_no_worker_that_spoils_the_next_start"),
    ),
    Fault(
        4,
        "A stop is requested",
        "Ctrl-C, SIGTERM, a terminal that is closed; `ray job stop` on a real cluster",
        "a checkpoint of the current step, no step lost, status 130, 143 or 129",
        (
            *_in(
                CHAOS,
                "training_faults",
                "a_run_asked_to_stop_saves_its_step_and_goes_on_to_the_same_weights",
            ),
            *_in(CHAOS, "lost_screen", "a_training_whose_terminal_is_closed_saves_its_step"),
            "tests/cluster/test_local_cluster.py::"
            "test_a_submitted_training_is_stopped_and_goes_on_by_the_same_command",
        ),
    ),
    Fault(
        5,
        "A worker hangs, crashes, is slow",
        "SIGSTOP, SIGSEGV, a call that never returns, slow steps",
        "found by the watchdog, stacks stored; replaced; to the same weights",
        (),
        _in(
            CHAOS,
            "hangs",
            "a_stopped_worker_is_found_and_replaced_and_nan_on_one_is_left_out_by_all",
            "a_worker_that_hangs_or_crashes_is_named_and_replaced",
            "a_slow_worker_is_named_and_slow_saving_is_no_hang",
            "a_training_in_this_process_that_hangs_ends_and_goes_on_by_the_same_command",
        ),
    ),
    Fault(
        6,
        "A node dies, or is preempted",
        "SIGKILL of a raylet, of GCS, of a whole cluster; a preemption notice",
        "a run with --min-workers continues with fewer, after a notice from the current step; on "
        "a new cluster the same command resumes",
        (),
        _in(
            CHAOS,
            "nodes",
            "a_node_leaves_and_another_joins",
            "a_machine_that_is_to_be_taken_away_is_left_with_no_step_done_twice",
            "a_machine_that_goes_before_the_step_at_hand_is_done_is_a_loss",
            "a_run_whose_cluster_is_gone_goes_on_on_a_new_one_by_the_same_command",
        ),
    ),
    Fault(
        7,
        "The disk is full",
        "a tmpfs of 1 MiB, RLIMIT_FSIZE, ENOSPC in a write and an fsync",
        "reported with needed and free bytes; the old checkpoint is complete; training continues, "
        "and stops after three failed saves in a row",
        (
            *_in(
                PIPELINE,
                "storage/test_disk_space",
                "a_disk_that_is_really_full_keeps_the_checkpoint_it_has",
                "a_limit_on_file_sizes_is_an_error_that_names_it",
                "running_out_of_room_in_mid_write_leaves_the_old_one_and_nothing_torn",
            ),
            *_in(
                PIPELINE,
                "checkpoint/test_async_saver",
                "a_full_disk_stops_the_training_at_the_third_time_in_a_row",
            ),
        ),
    ),
    Fault(
        8,
        "S3 is too busy",
        "503 once, 5 times, always; for one request in twenty",
        "retried up to 10 times, to the same bytes; then an error that names place and cause",
        (
            *_in(
                CHAOS,
                "storage_faults",
                "faults_that_pass_are_survived_by_everything",
                "one_layer_retries",
            ),
            *_in(CHAOS, "prepare_faults", "a_server_that_fails_now_and_then_changes_no_byte"),
        ),
        _in(CHAOS, "kills", "a_run_in_a_bucket_that_fails_now_and_then_ends_with_the_same_weights"),
    ),
    Fault(
        9,
        "S3 hangs, is slow, disconnects",
        "no response, a slow one, RST, a truncated body, a truncated upload",
        "retried, to the same bytes",
        _in(
            CHAOS,
            "storage_faults",
            "a_server_that_says_nothing_is_given_up_after_the_time_the_user_set",
            "a_slow_server_is_waited_for",
            "faults_that_pass_are_survived_by_everything",
            "a_part_that_is_cut_is_sent_again",
            "an_open_file_survives_answers_that_break_off",
        ),
    ),
    Fault(
        10,
        "S3 refuses",
        "403 to everything, to one method; no bucket; no server; no keys",
        "an error within seconds, before any work, that names the missing permission",
        (
            *_in(
                CHAOS,
                "storage_faults",
                "a_refusal_is_said_at_once_and_without_the_secret",
                "the_preflight_says_which_step_failed",
                "a_missing_bucket_is_not_a_missing_file",
                "absent_credentials_are_named",
                "a_wrong_endpoint_is_said_within_seconds",
            ),
            *_in(CHAOS, "prepare_faults", "a_server_that_refuses_ends_it_early_and_clearly"),
        ),
    ),
    Fault(
        11,
        "Killed during a multipart upload",
        "SIGKILL while the second part hangs",
        "no object appears; the next upload of that name removes the parts",
        _in(
            CHAOS,
            "storage_faults",
            "a_writer_killed_in_an_upload_leaves_no_object_and_the_next_one_clears_its_parts",
            "parts_of_a_killed_writer_go_with_the_next_upload_of_the_same_name",
        ),
    ),
    Fault(
        12,
        "MLflow is not available",
        "connection refused, killed, hanging, responses 500 and 429",
        "training is as fast as with it; every point arrives later, once, with its original time",
        _in(
            PIPELINE,
            "tracking/test_sender",
            "a_tracker_that_breaks_in_between_gets_all_of_it_later",
            "a_server_that_is_dead_at_the_start_and_killed_in_between",
            "a_killed_driver_leaves_points_that_two_syncs_at_once_send_once",
            "a_training_without_its_tracker_ends_well_and_is_sent_later",
        ),
        _in(CHAOS, "tracker_faults", "a_server_that_is_too_busy_gets_all_of_it_later"),
    ),
    Fault(
        13,
        "MLflow's database is locked",
        "`BEGIN EXCLUSIVE` by another process for 20 s",
        "as 12",
        (),
        _in(CHAOS, "tracker_faults", "a_database_that_another_has_locked_gets_all_of_it_later"),
    ),
    Fault(
        14,
        "NaN on one worker",
        "in an image of one worker, in the noise of one step",
        "all workers skip and count the step; after ten in a row: rollback, then new batches",
        (
            *_in(
                PIPELINE,
                "distributed/test_collective",
                "one_bad_image_of_one_process_makes_all_of_them_skip_the_step",
            ),
            *_in(
                PIPELINE,
                "training/test_rollback",
                "a_bad_batch_is_left_out_and_counted",
                "bad_batches_in_a_row_send_a_run_back_and_past_them",
                "a_run_that_stays_bad_stops_with_its_last_good_checkpoint",
            ),
        ),
    ),
    Fault(
        15,
        "Out of memory",
        "RLIMIT_AS, torch's own error; a worker that allocates until Ray kills it",
        "an error that names batch, memory and the --optim.accumulate that fits; replaced, or the "
        "same command resumes",
        (
            *_in(
                PIPELINE,
                "training/test_memory",
                "a_process_that_may_have_no_more_memory_says_so_too",
                "lack_of_memory_says_how_to_train_the_same_batch",
            ),
            *_in(
                PIPELINE,
                "training/test_rollback",
                "a_run_without_memory_says_how_to_train_the_same_batch",
            ),
        ),
        _in(CHAOS, "nodes", "a_worker_that_ray_ends_for_want_of_memory_costs_no_work"),
    ),
    Fault(
        16,
        "A malicious image",
        "a PNG with a flipped byte, SIGSEGV and SIGKILL of the decoder, a decompression bomb",
        "one row in `rejects/` with its reason; the next image gets another decoder",
        (
            *_in(
                PIPELINE,
                "preparation/decoding/test_isolated_decoder",
                "an_image_that_kills_the_child_is_rejected_and_the_next_gets_another",
                "memory_runs_out_in_the_child_only",
            ),
            *_in(
                PIPELINE,
                "preparation/decoding/test_images",
                "a_flipped_byte_in_a_png_is_always_noticed",
            ),
        ),
    ),
    Fault(
        17,
        "Bit rot",
        "flipped bits (10,000 trials), truncation and holes in a checkpoint; in a shard",
        "found before use: set aside as `damaged-…`, the previous one is used; a shard is named",
        (
            *_in(
                PIPELINE,
                "checkpoint/test_damage",
                "flipped_bits_are_all_found",
                "random_damage_is_found_and_named",
                "what_was_damaged_is_not_what_training_goes_on_from",
            ),
            *_in(
                PIPELINE, "data/test_damaged_shards", "damaged_bytes_are_found_before_they_are_used"
            ),
        ),
    ),
    Fault(
        18,
        "Ray's own records are truncated",
        "its JSON is cut to 40 bytes",
        "no effect: a start does not read the records of earlier ones",
        _in(CHAOS, "training_faults", "torn_records_of_ray_are_no_hindrance"),
    ),
    Fault(
        19,
        "One run started twice",
        "two commands, threads, processes at the same moment, on a disk and on S3",
        "exactly one runs; the error of the other names it",
        (
            *_in(
                PIPELINE,
                "storage/test_lock",
                "of_many_threads_one_owns",
                "of_many_processes_one_owns_at_a_time",
            ),
            *_in(
                CHAOS,
                "training_faults",
                "a_run_asked_to_stop_saves_its_step_and_goes_on_to_the_same_weights",
            ),
        ),
        _in(CHAOS, "kills", "of_two_starts_at_the_same_moment_exactly_one_runs"),
    ),
    Fault(
        20,
        "Changed options on resume",
        "another learning rate, width, batch, seed",
        "refused with old and new value; `--allow-changes` permits some",
        (
            *_in(
                PIPELINE,
                "training/test_train",
                "what_does_not_fit_is_refused_before_anything_starts",
            ),
            *_in(CHAOS, "training_faults", "an_option_may_change_on_resume_only_if_it_is_named"),
        ),
    ),
    Fault(
        21,
        "Other versions",
        "a worker's and a checkpoint's differ from the driver's",
        "workers are refused with the difference; that of a checkpoint is logged",
        _in(
            CHAOS,
            "training_faults",
            "a_worker_with_other_versions_is_refused",
            "other_versions_than_the_checkpoints_are_said",
        ),
    ),
    Fault(
        22,
        "The clock jumps",
        "an hour back and two ahead during a run",
        "order is by step, intervals by a monotonic clock: the same weights and metrics",
        _in(CHAOS, "training_faults", "a_clock_that_jumps_changes_nothing"),
    ),
    Fault(
        23,
        "A sweep is killed",
        "SIGKILL of the driver during its trials",
        "the same command resumes; finished trials are not trained again",
        (),
        (
            "tests/pipeline/sweeps/test_sweep.py::test_a_killed_sweep_is_finished_by_the_same_command",
        ),
    ),
    Fault(
        24,
        "Preparation is killed",
        "SIGKILL of all processes, at 20 random moments",
        "the same command resumes, shard by shard, to the same bytes",
        _in(PIPELINE, "preparation/test_prepare_again", "a_killed_preparation_goes_on"),
        _in(CHAOS, "prepare_faults", "a_preparation_killed_twenty_times_ends_in_the_same_bytes"),
    ),
    Fault(
        25,
        "The screen is gone",
        "a pipe whose reader has left, /dev/full, closed standard streams",
        "the work goes on and ends with its own status; its lines are in log.txt of its folder",
        (
            *_in(
                PIPELINE,
                "common/test_screen",
                "work_goes_on_when_its_screen_is_gone_and_its_lines_are_in_its_log",
            ),
            *_in(
                CHAOS,
                "lost_screen",
                "a_training_whose_reader_has_left_ends_well_and_says_so_in_its_log",
                "a_preparation_whose_screen_is_a_full_disk_ends_well_and_again",
            ),
        ),
    ),
    Fault(
        26,
        "The environment is bare",
        "no HOME, a user whom the system does not know, no git, a missing or long TMPDIR, "
        "64 MB of /dev/shm",
        "what is missing is replaced, with a line, or an error says what to set",
        _in(CHAOS, "bare_environments", "a_user_without_anything_trains"),
    ),
)


def table() -> str:
    """Return all faults in Markdown."""
    head = ["| | what breaks | brought about by | what happens |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(fault.row() for fault in FAULTS)])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
