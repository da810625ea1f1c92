"""Every setting has a test that fails where the setting is ignored; `docs/proof.md` is the table of them.

`python -m tests.architecture.test_proof` writes the page anew.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import pytest

from engine.settings.walk import settings
from lyctui.guides import guides

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "proof.md"
HEAD = """# Proof

For every setting: a test that fails where the setting is ignored, and where the setting is explained.
Where there are two, one shows what the setting does, the other that a recipe's value gets there.
The table is kept in `tests/architecture/test_proof.py`, which checks that each test exists and that no
setting is missing; write this page anew with `python -m tests.architecture.test_proof`.

`python -m tests.architecture.sabotage data.flip train.seed` makes the code of a run read the default of
these settings, whatever the recipe says, and tells whether their tests notice; without names, all are tried.

| setting | test | explained in |
|---|---|---|
"""

TODO: frozenset[str] = frozenset()
"""Settings whose test has not been written yet."""
PROVEN: dict[str, dict[str, str]] = {
    "engine/data/test_buckets.py": {
        "test_the_placement_table": "data.resolution data.no_upscale",
        "test_without_buckets_there_is_one_size_and_no_upscale_does_not_apply": "data.buckets",
        "test_list_sizes": "data.bucket_step data.bucket_min data.bucket_max",
    },
    "engine/data/test_captions.py": {
        "test_extension_spellings": "data.caption_extension",
        "test_empty_captions_are_told_and_fall_back": "data.keep_empty_captions",
        "test_another_separator": "data.separator",
        "test_shuffled_tags_are_joined_with_comma_and_blank_and_empty_ones_dropped": (
            "data.shuffle_tags"
        ),
        "test_keep_counts_tags": "data.keep_tokens",
        "test_dropout_of_captions": "data.caption_dropout",
        "test_every_nth_epoch_is_empty_counted_from_one": "data.caption_dropout_every",
        "test_tag_dropout_never_drops_kept_tags": "data.tag_dropout",
        "test_prefix_and_suffix_are_added_once": "data.prefix data.suffix",
    },
    "engine/data/test_images.py": {
        "test_transparent_pixels_get_the_background_not_hidden_colours": "data.background",
        "test_the_pixel_limit_is_a_setting": "data.max_megapixels",
    },
    "engine/data/test_latents.py": {
        "test_disk_ram_and_off_give_the_same_bytes": "data.cache_latents",
        "test_a_limit_below_the_data_set_is_told": "data.cache_gigabytes",
    },
    "engine/data/test_loader.py": {
        "test_half_of_the_draws_are_mirrored_where_mirroring_is_on": "data.flip",
        "test_batches_are_read_ahead": "data.workers",
    },
    "engine/data/test_order.py": {
        "test_reg_samples_are_rounded_half_up": "data.reg_ratio",
        "test_twenty_images_in_ten_buckets_of_two": "train.batch_size",
        "test_six_hundred_samples_are_68_steps_not_67": "train.accumulation",
        "test_order_is_a_function_of_seed_and_epoch": "train.seed",
    },
    "engine/data/test_survey.py": {
        "test_parent_concepts_items_and_texts": "data.folder",
        "test_a_free_reg_leaf_takes_the_class_word": "data.reg_folder",
        "test_layout_chooses_between_leaf_and_parent": "data.layout",
        "test_the_recipe_wins_over_the_name": "data.folders",
        "test_a_leaf_takes_the_text_of_trigger_and_class": "data.trigger data.class_word",
        "test_captions_switched_off": "data.captions",
    },
    "engine/models/test_load.py": {
        "test_the_wanted_number_format_and_no_other": "train.precision",
    },
    "engine/models/test_sd1.py": {
        "test_checkpointing_computes_twice_and_changes_nothing": "train.checkpointing",
    },
    "engine/models/test_settings_used.py": {
        "test_family": "model.family",
        "test_prediction": "model.prediction",
        "test_vae": "model.vae",
        "test_clip_skip": "model.clip_skip",
        "test_longest_caption": "model.max_tokens",
        "test_weights_in_captions": "model.weighted_prompts",
        "test_what_was_cached_leaves_the_device": "data.cache_text",
        "test_attention": "train.attention",
    },
    "engine/networks/test_algorithms.py": {
        "test_output_and_gradients_are_those_of_the_base_with_the_change": "network.algorithm",
        "test_alpha_in_the_file_tells_the_trained_scale": "network.alpha network.rs_lora",
        "test_dropouts_act_in_training_only_and_repeat_under_checkpointing": (
            "network.module_dropout network.dropout"
        ),
        "test_max_norm_meets_the_limit_and_reports_where_nothing_was_scaled": "network.max_norm",
        "test_save_load_save_is_byte_equal_from_shapes_alone": "network.tucker",
    },
    "engine/networks/test_dora.py": {
        "test_the_change_is_the_formula": "network.dora",
    },
    "engine/networks/test_dylora.py": {
        "test_training_is_the_slice_of_the_drawn_rank_at_its_own_scale": "network.block_size",
        "test_only_the_last_drawn_block_learns_unless_all_may": "network.detach_lower",
    },
    "engine/networks/test_factors.py": {
        "test_factorization_is_the_documented_table": "network.factor",
        "test_parameters_at_1280_are_the_documented_ones": "network.decompose_both",
        "test_unbalanced_swaps_the_outputs_only": "network.unbalanced",
    },
    "engine/networks/test_ia3.py": {
        "test_every_row_or_column_has_its_number_and_the_bias_none": "network.train_on_input",
    },
    "engine/networks/test_loha.py": {
        "test_the_mean_over_many_dropped_ranks_is_the_whole_change": "network.rank_dropout",
    },
    "engine/networks/test_overrides.py": {
        "test_a_preset_of_ones_own_is_used_like_any_other": "network.targets_file",
        "test_sizes_of_linear_layers_and_convolutions": "network.conv_alpha",
    },
    "engine/networks/test_rotations.py": {
        "test_the_limit_is_the_constraint_times_the_outputs_over_all_blocks": "network.constraint",
        "test_the_rescale_comes_last_and_strength_is_linear": "network.rescaled",
    },
    "engine/networks/test_shapes.py": {
        "test_file_sizes_of_sd1_are_the_documented_ones": "network.rank",
        "test_trained_numbers_are_counted_layer_by_layer": "network.scalar",
    },
    "engine/networks/test_t_lora.py": {
        "test_ranks_fall_with_the_noise_as_the_paper_says": "network.min_rank network.mask_alpha",
        "test_the_penalty_pulls_both_factors_back_to_orthogonal_ones": "network.orthogonality",
        "test_it_starts_at_singular_values_of_the_base": "network.sig_type",
        "test_a_drawn_start_has_the_deviation_of_one_over_the_rank": "network.use_data_init",
    },
    "engine/networks/test_targets.py": {
        "test_every_preset_has_its_reference_counts": "network.targets",
        "test_norms_come_with_their_own_algorithm_and_the_rest_with_the_networks": (
            "network.train_norm"
        ),
        "test_convolutions_beyond_one_pixel_are_left_out_with_conv_rank_zero": "network.conv_rank",
    },
    "engine/objective/test_loss.py": {
        "test_mask_takes_the_mean_over_its_area_or_over_the_picture": "data.mask_mean",
    },
    "engine/optim/test_loraplus.py": {
        "test_a_run_trains_up_factors_at_their_own_rate": "optim.loraplus_ratio",
    },
    "engine/optim/test_matrix.py": {
        "test_the_rates_that_are_told_are_those_that_move": "optim.lr optim.optimizer",
        "test_relative_steps_and_schedule_free_follow_no_curve": "schedule.warmup_steps",
        "test_every_schedule_setting_reaches_the_curve": (
            "schedule.scheduler schedule.warmup_percent schedule.rules schedule.cycles "
            "schedule.power schedule.min_lr_ratio schedule.decay_percent"
        ),
    },
    "engine/optim/test_optimizers.py": {
        "test_it_goes_down": "optim.optimizer",
        "test_each_part_gets_its_own_rate": "optim.unet_lr optim.te_lr",
    },
    "engine/optim/test_runs.py": {
        "test_a_resume_on_either_side_of_the_border_is_exact": (
            "train.ema_decay train.network_precision"
        ),
        "test_text_encoders_stop_and_the_rest_goes_on": "optim.te_stop_percent",
        "test_each_of_two_text_encoders_has_its_own_rate_and_both_stop": "optim.te2_lr",
    },
    "engine/optim/test_schedules.py": {
        "test_curves": "schedule.scheduler",
        "test_warmup_by_percent_and_by_count": "schedule.warmup_percent schedule.warmup_steps",
        "test_piecewise_rules": "schedule.rules",
    },
    "engine/planning/test_rules.py": {
        "test_what_is_to_be_read": (
            "data.folder data.reg_folder data.layout data.repeats data.folders data.trigger "
            "data.class_word data.captions data.caption_extension data.keep_empty_captions "
            "data.flip data.max_megapixels"
        ),
        "test_how_sizes_are_chosen": (
            "data.resolution data.buckets data.bucket_step data.bucket_min data.bucket_max "
            "data.no_upscale"
        ),
        "test_what_happens_to_captions": (
            "data.separator data.shuffle_tags data.keep_tokens data.caption_dropout "
            "data.caption_dropout_every data.tag_dropout data.prefix data.suffix"
        ),
        "test_what_network_is_wanted": (
            "network.alpha network.rs_lora network.module_dropout network.dropout network.tucker "
            "network.dora network.block_size network.detach_lower network.factor "
            "network.decompose_both network.unbalanced network.train_on_input "
            "network.rank_dropout network.targets_file network.conv_alpha network.constraint "
            "network.rescaled network.rank network.scalar network.min_rank network.mask_alpha "
            "network.orthogonality network.sig_type network.use_data_init network.targets "
            "network.train_norm network.conv_rank"
        ),
    },
    "engine/settings/test_optimizer_arguments.py": {
        "test_lines_win_over_fields_and_fields_over_defaults": (
            "optim.weight_decay optim.betas optim.eps optim.d_coef optim.arguments"
        ),
        "test_lines_of_a_guide_are_read": "optim.arguments",
    },
    "engine/test_assemble_data.py": {
        "test_data_keep_separator": "data.keep_separator",
        "test_data_secondary_separator": "data.secondary_separator",
        "test_data_wildcards": "data.wildcards",
        "test_data_more_resolutions": "data.more_resolutions",
        "test_data_colour": "data.colour",
        "test_what_switches_the_cache_off_is_told": "data.random_crop",
        "test_data_masked_loss_and_mask_folder": "data.masked_loss data.mask_folder",
        "test_data_validation_keeps_pictures_out_of_every_epoch": "data.validation",
        "test_data_validation_seed": "data.validation_seed",
        "test_data_vae_batch": "data.vae_batch",
    },
    "engine/test_batch_loss.py": {
        "test_settings_change_the_loss": (
            "objective.loss objective.noise_offset objective.noise_offset_random "
            "objective.adaptive_noise_scale objective.multires_iterations "
            "objective.multires_discount objective.ip_noise_gamma objective.ip_noise_random "
            "objective.huber_schedule objective.huber_c objective.huber_scale "
            "objective.min_timestep objective.max_timestep objective.timestep_shape "
            "objective.timestep_mean objective.timestep_spread"
        ),
        "test_weights_multiply_the_loss": (
            "objective.min_snr_gamma objective.debiased objective.v_like_loss objective.p2_gamma"
        ),
        "test_zero_terminal_snr_is_the_schedule_of_the_loss": "objective.zero_terminal_snr",
        "test_weights_of_velocity_multiply_the_loss": "objective.scale_v_loss",
        "test_prior_loss_weight_counts_for_regularisation_only": "objective.prior_loss_weight",
    },
    "engine/test_hardware.py": {
        "test_a_card_is_named_by_number_uuid_or_cuda_number": "train.device",
    },
    "engine/test_loggers.py": {
        "test_csv_has_a_line_for_each_step_and_measurement": "run.csv",
        "test_tensorboard_reads_back_numbers_and_pictures": "run.tensorboard",
        "test_wandb_gets_the_project_and_numbers_and_no_key_is_written": (
            "run.wandb run.wandb_project"
        ),
    },
    "engine/test_plan.py": {
        "test_clip_skip_follows_the_prompt_style": "model.prompt_style",
        "test_steps_are_those_of_the_order_with_partial_batches": "data.repeats",
        "test_an_override_reaches_the_network_with_all_it_says": "network.overrides",
        "test_the_step_limit_cuts_and_says_where": "train.max_steps",
        "test_the_name_is_the_trigger_with_the_next_free_number": "run.name",
    },
    "engine/test_run_modes.py": {
        "test_a_long_gradient_is_shortened_and_told_as_it_was": "optim.max_grad_norm",
        "test_torch_computes_with_as_many_threads_as_are_set": "train.threads",
        "test_only_exact_kernels_are_used_where_that_is_asked_for": "run.deterministic",
    },
    "engine/test_previews.py": {
        "test_pictures_are_made_as_the_recipe_says": (
            "sample.prompts_file sample.sampler sample.negative sample.steps sample.guidance"
        ),
    },
    "engine/test_rollback.py": {
        "test_a_spike_is_rolled_back": "train.spike_limit",
        "test_it_gives_up_after_so_many_times_with_a_healthy_file": "train.rollbacks",
    },
    "engine/test_saving.py": {
        "test_pictures_have_the_size_and_the_seed_that_are_set": (
            "sample.width sample.height sample.seed"
        ),
        "test_pictures_before_the_start_and_by_steps": "sample.every_steps sample.every_epochs",
        "test_pictures_by_minutes": "sample.every_minutes sample.at_start",
        "test_files_by_epochs_and_by_minutes": "save.every_minutes",
        "test_files_by_steps_and_none_by_epochs": "save.every_steps save.every_epochs",
        "test_weights_have_the_precision_of_the_file_and_alpha_keeps_fp32": "save.precision",
        "test_the_last_files_on_the_way_are_kept_and_the_final_one_always": "save.keep_last",
        "test_states_by_minutes_and_how_many_are_kept": "save.state_minutes save.keep_states",
        "test_private_metadata_leave_the_comment_out": "save.metadata",
        "test_what_is_told_in_the_file": (
            "save.comment save.title save.author save.description save.license"
        ),
        "test_the_finished_file_is_copied": "save.copy_to",
    },
    "engine/test_session.py": {
        "test_a_run_from_start_to_end": ("model.path train.epochs sample.prompts"),
    },
    "engine/test_settings_reach_the_run.py": {
        "test_transparency_has_the_background_of_the_recipe": "data.background",
        "test_latents_are_kept_where_the_recipe_says": "data.cache_latents",
        "test_the_limit_of_the_cache_is_that_of_the_recipe": "data.cache_gigabytes",
        "test_pictures_are_read_ahead_by_workers": "data.workers",
        "test_regularisation_comes_as_often_as_the_recipe_says": "data.reg_ratio",
        "test_the_base_computes_in_the_precision_of_the_recipe": "train.precision",
        "test_activations_are_computed_twice_where_the_recipe_says": "train.checkpointing",
        "test_steps_have_the_batches_of_the_recipe": "train.batch_size train.accumulation",
        "test_the_seed_of_the_recipe_draws_everything": "train.seed",
        "test_each_part_has_the_rate_of_the_recipe": "optim.unet_lr optim.te_lr",
        "test_the_network_has_the_algorithm_of_the_recipe": "network.algorithm",
        "test_limits_are_those_of_the_recipe": "network.max_norm",
        "test_a_mask_is_averaged_as_the_recipe_says": "data.mask_mean",
        "test_it_is_measured_as_often_as_the_recipe_says": (
            "train.validate_every_epochs train.validate_every_steps"
        ),
        "test_the_device_is_that_of_the_recipe": "train.device",
    },
    "engine/test_start_from_file.py": {
        "test_step_0_equals_the_file_which_stays_as_it_is": "network.weights",
    },
    "engine/test_validation.py": {
        "test_it_is_due_by_epochs_and_steps_before_all_and_at_the_end": (
            "train.validate_every_epochs train.validate_every_steps"
        ),
    },
    "lyctui/test_settings_reach_the_run.py": {
        "test_a_run_lies_where_the_recipe_says": "run.folder run.name",
        "test_a_run_ends_with_its_terminal_where_the_recipe_says": "run.on_disconnect",
    },
    "lyctui/test_cli_train.py": {
        "test_a_recipe_gives_as_many_steps_as_planned_and_a_file": "run.folder",
    },
    "terminal/test_lost_terminal.py": {
        "test_policy_stop_saves_and_ends_with_129": "run.on_disconnect",
    },
}
"""File below tests, test, and the settings that it proves."""
PROOF: dict[str, tuple[str, ...]] = {}
"""The tests of each setting."""
for _file, _proven in PROVEN.items():
    for _test, _paths in _proven.items():
        for _path in _paths.split():
            PROOF[_path] = (*PROOF.get(_path, ()), f"tests/{_file}::{_test}")


@lru_cache(maxsize=256)
def names_in(path: str) -> frozenset[str]:
    """Names of the tests of a file."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def proof_page() -> str:
    """The table as Markdown."""
    rows = []
    for row in settings():
        proof = "<br>".join(f"`{test}`" for test in PROOF.get(row.path, ())) or "to be written"
        where = f"`presets/guides/{row.section}.md`" if row.path in guides() else "its line of help"
        rows.append(f"| `{row.path}` | {proof} | {where} |")
    return HEAD + "\n".join(rows) + "\n"


def test_every_setting_has_a_proof_and_no_other():
    assert {row.path for row in settings()} == set(PROOF) | TODO
    assert not set(PROOF) & TODO


@pytest.mark.parametrize("file", PROVEN)
def test_every_test_of_the_table_exists(file):
    assert set(PROVEN[file]) - names_in(f"tests/{file}") == set()


def test_no_test_is_named_twice_for_a_setting():
    assert all(len(tests) == len(set(tests)) for tests in PROOF.values())


def test_the_page_is_current():
    assert PAGE.read_text("utf-8") == proof_page(), "run python -m tests.architecture.test_proof"


if __name__ == "__main__":
    PAGE.write_text(proof_page(), "utf-8")
