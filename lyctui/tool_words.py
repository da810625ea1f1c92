"""What the forms of the file tools say: a label and an explanation for every answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["basic", "advanced"]


@dataclass(frozen=True, slots=True)
class Words:
    """How a field is asked."""

    label: str
    help: str
    level: Level = "basic"
    blank: str = ""


WORDS: dict[str, Words] = {
    "source": Words(
        "Network file",
        "The file that is read: .safetensors of any layout. It stays as it is.",
    ),
    "base": Words(
        "Base model",
        "The model that the network was trained on, a single .safetensors file. Only some forms need it: "
        "DoRA, (IA)³ and rotations change a layer by what the layer is.",
        "advanced",
        "none",
    ),
    "info.base": Words(
        "Base model",
        "The model that the network was trained on. Only the sizes of some changes need it: DoRA, (IA)³ "
        "and rotations change a layer by what the layer is.",
        "advanced",
        "none",
    ),
    "merge.base": Words(
        "Base model",
        "The model that the networks are added to, a single .safetensors file of their family. It stays "
        "as it is.",
    ),
    "extract.base": Words(
        "Base model",
        "What the trained model was made from, a single .safetensors file. With another base the "
        "difference holds everything in which the two differ.",
    ),
    "tuned": Words(
        "Trained model",
        "The model whose learning becomes a network: a single .safetensors file of the base's family.",
    ),
    "networks": Words(
        "Networks",
        "Each file with its strength; 1 is as it was trained, 0.5 half of it, a negative one takes it "
        "away. A new row opens below the last; an empty row is not counted.",
    ),
    "output": Words(
        "Write to",
        "Path of the new file. Blank takes the proposed name beside the file that is read. Ctrl+O chooses "
        "the folder.",
    ),
    "force": Words(
        "Overwrite",
        "With no, a file that has this name already is never touched. With yes it is replaced, at the end "
        "and only when the new one is whole.",
    ),
    "program": Words(
        "For program",
        "Where the file will be used. Form, layout and names are chosen so that this program computes what "
        "was trained. Blank leaves all that as it is.",
        blank="any: leave as it is",
    ),
    "to": Words(
        "Becomes",
        "The form of every module. A LoRA loads everywhere and may lose a little; a whole difference is "
        "exact and as large as the layers themselves.",
    ),
    "join.to": Words(
        "Becomes",
        "As it is puts the ranks of LoRAs side by side, which is exact, and makes a LoRA of the rest. A "
        "whole difference is exact and as large as the layers themselves.",
    ),
    "names": Words(
        "Module names",
        "How the layers are called in the file. As they are suits every program that loads the file now; "
        "the dotted names of PEFT are those of diffusers' own files.",
        "advanced",
    ),
    "glora": Words(
        "GLoRA layout",
        "Two layouts of GLoRA are about: the old one is what A1111 loads. Blank leaves what the file has, "
        "or what the program needs.",
        "advanced",
        "as it is",
    ),
    "precision": Words(
        "Numbers",
        "Number format of the weights. fp16 halves an fp32 file and is what networks usually have; bf16 "
        "has the range of fp32 with fewer digits.",
        "advanced",
    ),
    "diff": Words(
        "Whole differences",
        "Write the exact difference of every layer instead of a LoRA: large, and nothing is lost but the "
        "rounding.",
        "advanced",
    ),
    "norms": Words(
        "Norm layers",
        "Write what the norm layers learned, too. Not every program loads that.",
        "advanced",
    ),
    "unet": Words("U-Net", "Compare the U-Net, which draws.", "advanced"),
    "text": Words("Text encoder", "Compare the text encoder, which reads prompts.", "advanced"),
    "rule": Words("Keep by", "How many directions of each layer's change are kept."),
    "convert.rule": Words(
        "Keep by",
        "How many directions of each change are kept where a module becomes a LoRA. Blank keeps what is "
        "exact, else at most rank 64.",
        "advanced",
        "what is exact",
    ),
    "join.rule": Words(
        "Keep by",
        "How many directions of each change are kept where a module becomes a LoRA. Blank keeps what is "
        "exact, else at most rank 64.",
        "advanced",
        "what is exact",
    ),
    "extract.conv_rule": Words(
        "Convolutions by",
        "The same for convolutions with a kernel larger than one pixel. Blank treats them as the others; "
        "a rank of 0 leaves them out.",
        "advanced",
        "the same",
    ),
    "conv_rule": Words(
        "Convolutions by",
        "The same for convolutions with a kernel larger than one pixel. Blank treats them as the others.",
        "advanced",
        "the same",
    ),
}
"""By field of a request, or by tool and field where one tool means it differently."""

CHOICE_WORDS: dict[str, str] = {
    "comfyui": "ComfyUI",
    "a1111": "A1111",
    "forge": "Forge",
    "diffusers": "diffusers",
    "lycoris": "LyCORIS",
    "keep": "as it is",
    "lora": "LoRA",
    "diff": "whole difference",
    "fixed": "a rank",
    "threshold": "a threshold",
    "ratio": "share of the largest",
    "quantile": "share of the sum",
    "error": "error at most",
    "sv_ratio": "largest divided by",
    "sv_fro": "share of the norm",
    "sv_cumulative": "cumulative share",
}
NAMES_WORDS = {"keep": "as they are", "diffusers": "kohya, diffusers' blocks", "peft": "PEFT"}
NAMES_WORDS |= {"sgm": "kohya, original blocks", "kohya": "kohya, the usual"}


@dataclass(frozen=True, slots=True)
class RuleWords:
    """What the number of a rank rule is."""

    label: str
    help: str
    range: str
    proposed: str
    whole: bool = False


RULE_WORDS: dict[str, RuleWords] = {
    "fixed": RuleWords(
        "Rank",
        "Every layer keeps this many directions; the file's size follows from it.",
        "a whole number from 1 to 16384",
        "32",
        whole=True,
    ),
    "threshold": RuleWords(
        "Keep above",
        "Directions whose singular value is above this number are kept.",
        "0 or more",
        "0.01",
    ),
    "ratio": RuleWords(
        "Share of largest",
        "Directions above this share of the layer's largest singular value are kept.",
        "a number between 0 and 1",
        "0.05",
    ),
    "quantile": RuleWords(
        "Share of sum",
        "The first directions, until their singular values make up this share of the sum.",
        "a number between 0 and 1",
        "0.9",
    ),
    "error": RuleWords(
        "Error at most",
        "As few directions as keep the relative error of each layer's change at or below this.",
        "a number between 0 and 1",
        "0.05",
    ),
    "sv_ratio": RuleWords(
        "Divided by",
        "Directions above the largest singular value divided by this number are kept.",
        "a number above 1",
        "20",
    ),
    "sv_fro": RuleWords(
        "Share of norm",
        "As few directions as keep this share of the Frobenius norm.",
        "a number between 0 and 1",
        "0.95",
    ),
    "sv_cumulative": RuleWords(
        "Share of sum",
        "As few directions as keep this share of the sum of singular values.",
        "a number between 0 and 1",
        "0.9",
    ),
}
LIMIT = Words("Rank at most", "Whatever the rule finds, never more than this rank.", "advanced")


def words_of(tool: str, name: str) -> Words:
    """The words of a request's field."""
    return WORDS.get(f"{tool}.{name}") or WORDS[name]


def choice_words(name: str, choice: str) -> str:
    """How one answer of a choice is shown."""
    if name == "names":
        return NAMES_WORDS.get(choice, choice)
    return CHOICE_WORDS.get(choice, choice)
