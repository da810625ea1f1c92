"""The network as arguments of kohya's own LoRA or of LyCORIS."""

from __future__ import annotations

from typing import Any

from engine.kohya.export import Draft, written_value
from engine.kohya.names import FULL_DIM, KOHYA_CONV, NETWORK_ARGS, THEIR_NAMES
from engine.settings.network import Network, asked
from engine.settings.walk import setting

EXTRAS = ("tucker", "scalar", "rs_lora", "train_norm")
NOT_SENT = frozenset({"train_on_input", "dropout", "decompose_both"})
"""Options that are told elsewhere, or that LyCORIS does not read."""


def network(draft: Draft) -> None:
    """Module, sizes and arguments."""
    section = draft.recipe.network
    draft.said("network.algorithm", "network.targets", "network.targets_file")
    own = _is_own(section)
    draft.add("network_module", "networks.lora" if own else "lycoris.kohya")
    if section.max_norm and not own:
        words = "LyCORIS takes it for some algorithms alone, and its files do not hold the effect"
        draft.differs("network.max_norm", words)
    _sizes(draft, section)
    args = _own_args(draft, section) if own else _lycoris_args(draft, section)
    ratio = draft.recipe.optim.loraplus_ratio
    if ratio is not None:
        args["loraplus_lr_ratio"] = ratio
    draft.said("optim.loraplus_ratio")
    if args:
        draft.add("network_args", *(f"{key}={written_value(one)}" for key, one in args.items()))
    dropout = asked(section, "dropout", 0.0)
    if dropout:
        draft.add("network_dropout", dropout)
    draft.said("network.dropout")
    if section.weights is not None:
        draft.add("network_weights", section.weights)
        draft.add("dim_from_weights")
        for key in ("rank", "alpha", "conv_rank", "conv_alpha"):
            draft.elsewhere.add(f"network.{key}")
    draft.said("network.weights")


def _is_own(section: Network) -> bool:
    """Whether kohya's own module trains the same layers with the same options."""
    beyond = any(asked(section, key) for key in EXTRAS) or asked(section, "dora", "off") != "off"
    if beyond or section.targets_file is not None:
        return False
    if section.algorithm == "lora":
        return section.targets == "attn-mlp" and not section.overrides
    # sd-scripts takes an alpha of 1 where it is missing, we as much as of the rest; 0 is the rank.
    sized = asked(section, "conv_rank") is not None and asked(section, "conv_alpha") is not None
    return (
        section.algorithm == "locon" and section.targets == "full" and sized and _kohya_set(section)
    )


def _kohya_set(section: Network) -> bool:
    """Whether the overrides leave out just what kohya's LoCon has not."""
    if len(section.overrides) != 1:
        return False
    only = section.overrides[0]
    return only == type(only)(pattern=KOHYA_CONV, exclude=True)


def _sizes(draft: Draft, section: Network) -> None:
    rank, alpha = asked(section, "rank"), asked(section, "alpha")
    if setting("network.rank", section.algorithm) is None or not hasattr(section, "rank"):
        return
    if rank is None:
        draft.differs("network.rank", "left open here; sd-scripts takes 4")
    else:
        draft.add("network_dim", FULL_DIM if rank == "full" else rank)
        (draft.elsewhere.add if rank == FULL_DIM else draft.said)("network.rank")
    if not hasattr(section, "alpha"):
        return
    if alpha is None:
        draft.differs("network.alpha", "left open here; sd-scripts takes 1")
    else:
        draft.add("network_alpha", alpha, paths=("network.alpha",))


def _own_args(draft: Draft, section: Network) -> dict[str, Any]:
    """Arguments of networks.lora."""
    keys = ("rank_dropout", "module_dropout")
    args = {key: value for key in keys if (value := asked(section, key))}
    if section.algorithm == "locon":
        args |= {
            "conv_dim": asked(section, "conv_rank"),
            "conv_alpha": asked(section, "conv_alpha"),
        }
        draft.said("network.overrides")
    else:
        # There are no convolutions in these layers: their sizes say nothing.
        draft.elsewhere.update(("network.conv_rank", "network.conv_alpha"))
    draft.said(*(f"network.{key}" for key in (*keys, "conv_rank", "conv_alpha")))
    return args


def _lycoris_args(draft: Draft, section: Network) -> dict[str, Any]:
    """Arguments of LyCORIS, those that say more than its defaults."""
    algorithm = THEIR_NAMES.get(section.algorithm, section.algorithm)
    own = section.targets_file
    args: dict[str, Any] = {"algo": algorithm, "preset": section.targets if own is None else own}
    if own is not None and (section.targets != "attn-mlp" or own.suffix not in (".toml", ".json")):
        draft.elsewhere.update(("network.targets", "network.targets_file"))
    for theirs, ours in NETWORK_ARGS.items():
        value = asked(section, ours)
        if value is None or ours in NOT_SENT:
            continue
        draft.said(f"network.{ours}")
        row = setting(f"network.{ours}", section.algorithm)
        default = row.default if row is not None else None
        if ours == "factor" or value != default:
            args[theirs] = value
    if asked(section, "decompose_both"):
        args["decompose_both"] = True
        draft.said("network.decompose_both")
    if section.train_norm:
        args["train_norm"] = True
    axis = asked(section, "dora", "off")
    if axis != "off":
        args |= {"dora_wd": True, "wd_on_output": axis == "output"}
    draft.said("network.train_norm", "network.dora")
    if draft.family == "sdxl" and args["preset"] == "full":
        words = "LyCORIS under kohya never trains conv_in, conv_out and the time embedding of SDXL"
        draft.differs("network.overrides", words)
    return args
