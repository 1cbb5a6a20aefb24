"""The one error that a user's mistake raises, and the sentence that names the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

# What other libraries call a setting -> its name here.
ELSEWHERE = {
    alias: name
    for name, aliases in {
        "learning_rate": "lr eta base_lr initial_lr init_lr max_lr learning_rate_init step_size alpha",
        "momentum": "sgd_momentum mu beta",
        "base_momentum": "min_momentum low_momentum cycle_momentum",
        "beta1": "beta_1 betas b1 adam_beta1",
        "beta2": "beta_2 b2 adam_beta2",
        "epsilon": "eps adam_epsilon opt_eps",
        "weight_decay": "wd l2 decay l2_reg l2_regularization regularization",
        "clip_norm": "clip clipnorm grad_clip clip_grad max_grad_norm gradient_clip_val clip_grad_norm global_clipnorm",
        "label_smoothing": "label_smoothing_factor label_smooth smooth_labels ls",
        "smoothing": "rho",
        "momentum_decay": "psi schedule_decay",
        "decay_biases": "filter_bias_and_bn bias_weight_decay norm_weight_decay exclude_from_weight_decay",
        "class_weights": "class_weight loss_weights weight_classes",
        "lookahead": "lookahead_k lookahead_steps sync_period use_lookahead",
        "lookahead_rate": "lookahead_alpha slow_step_size",
        "end_factor": "min_lr lr_min eta_min end_lr final_lr final_div_factor",
        "start_factor": "warmup_factor warmup_lr warmup_start_lr lr_warmup_decay init_lr",
        "drop_last": "drop_remainder dataloader_drop_last drop_incomplete",
        "ema": "use_ema ema_decay ema_momentum model_ema model_ema_decay weight_averaging swa polyak",
        "batch_size": "bs batch mini_batch_size minibatch train_batch_size per_device_train_batch_size bsz",
        "epochs": "epoch n_epochs num_epochs max_epochs nb_epochs nb_epoch num_train_epochs total_epochs max_iter",
        "steps": "max_steps num_steps n_steps total_steps iterations num_iterations num_train_steps updates",
        "optimizer": "opt optim optimiser solver",
        "schedule": "scheduler sched lr_scheduler lr_schedule lr_scheduler_type learning_rate_schedule lr_policy",
        "step_epochs": "lr_step_size decay_epochs lr_decay_epochs step_lr",
        "milestones": "lr_milestones lr_steps multi_step decay_milestones",
        "step_factor": "gamma lr_gamma decay_rate lr_decay_factor",
        "warmup_epochs": "warmup warmup_steps num_warmup_steps warmup_ratio lr_warmup_epochs",
        "loss": "criterion loss_fn loss_function",
        "early_stopping": "patience early_stop early_stopping_patience n_iter_no_change",
        "select_on": "monitor metric_for_best_model",
        "select": "save_best save_best_only load_best_model_at_end restore_best_weights",
        "validation": "val valid val_split validation_split validation_fraction valid_pct val_size holdout",
        "validation_seed": "val_seed split_seed",
        "limit": "max_samples num_samples n_samples subset max_train_samples limit_train_batches",
        "size": "img_size image_size imgsz input_size resolution crop_size resize",
        "channels": "in_chans in_channels n_channels num_channels color_mode",
        "dataset": "data ds data_set dataset_name",
        "model": "arch architecture net network backbone model_name",
        "hidden": "hidden_size hidden_sizes hidden_units hidden_layers hidden_layer_sizes hidden_dim units",
        "activation": "act act_layer activation_fn activation_function nonlinearity",
        "batch_norm": "bn batchnorm use_bn use_batch_norm norm",
        "dropout": "drop drop_rate dropout_rate dropout_prob p_dropout",
        "init": "initializer kernel_initializer kernel_init weight_init initialization",
        "warm_start": "pretrained pretrained_weights weights checkpoint initial_checkpoint finetune init_from",
        "frozen": "freeze freeze_layers frozen_layers trainable",
        "augment": "aug augmentation augmentations data_augmentation transform transforms",
        "crop_padding": "crop_pad random_crop_padding",
        "crop_padding_mode": "crop_fill fill_mode",
        "rotation": "rotate random_rotation rotation_range degrees",
        "translation": "translate random_translation shift width_shift_range height_shift_range",
        "brightness": "color_jitter random_brightness brightness_range",
        "contrast": "random_contrast contrast_range",
        "cutout": "random_erasing erasing reprob cut_out",
        "mixup": "mixup_alpha mix_up",
        "cutmix": "cutmix_alpha cut_mix",
        "test_time_flip": "tta tta_flip flip_tta test_time_augmentation",
        "pixels": "normalize normalization rescale scale rescaling preprocessing standardize mean_std",
        "precision": "amp fp16 bf16 dtype mixed_precision half",
        "shuffle": "shuffle_train train_shuffle",
    }.items()
    for alias in aliases.split()
}
MOST_LISTED = 12  # names that a message lists beside the one that was probably meant


class UserError(ValueError):
    """A mistake in what was given: one line that says what was given, what is allowed and what to type.

    The command line prints it to stderr and exits with status 2; in Python it is a `ValueError`.
    """


def unknown(what: str, given: object, allowed: Iterable[object]) -> UserError:
    """An error for a `given` name that is none of the `allowed` ones; names the nearest, and lists few ones.

    A name that other libraries use is answered with ours.

    >>> print(unknown("model", "mpl", ["linear", "mlp"]))
    unknown model 'mpl': did you mean 'mlp'? Allowed: linear, mlp
    >>> print(unknown("key", "lr", ["learning_rate", *"abcdefghijkl"]))
    unknown key 'lr': did you mean 'learning_rate'?
    """
    names = [str(name) for name in allowed]
    near = []
    if isinstance(given, str):
        plain = given.lower().replace("-", "_").replace(" ", "_")
        same = [name for name in names if name == ELSEWHERE.get(plain, plain)]
        near = same or difflib.get_close_matches(given, names, n=1, cutoff=0.6 if len(names) > MOST_LISTED else 0.5)
    if near and len(names) > MOST_LISTED:
        return UserError(f"unknown {what} {str(given)!r}: did you mean {near[0]!r}?")
    hint = f" did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {str(given)!r}:{hint} Allowed: {', '.join(names)}")


def check_whole(what: str, given: object, least: int = 0) -> None:
    """Raise unless `given` is a whole number of at least `least`."""
    if isinstance(given, bool) or not isinstance(given, Integral) or given < least:
        raise UserError(f"{what} is {given!r}: give {least} or more, a whole number")


def check_choice(what: str, given: object, allowed: Iterable[object]) -> None:
    """Raise `unknown` unless `given` is one of `allowed`."""
    allowed = tuple(allowed)
    if given not in allowed:
        raise unknown(what, given, allowed)
