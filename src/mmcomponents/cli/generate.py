"""`mmcomponents generate`: answers prompts with the model of a checkpoint folder or of a run."""

from __future__ import annotations

from mmcomponents.cli.models.model_options import Arguments, add_model_options, parse_arguments
from mmcomponents.cli.terminal.parser import Parser, fraction, recipe_verb_parser


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    if (arguments := arguments_of(verb, argv)) is None:
        return 0
    from mmcomponents.cli.runs.generate_run import answer
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    return answer(verb, arguments, MultimodalTask, PackedDataModule)


def arguments_of(verb: str, argv: list[str]) -> Arguments | None:
    """Returns the parsed words after the verb, or None after printing the help."""
    return parse_arguments(_parser(verb), argv)


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Answer prompts about images and videos. MODEL is a folder in this library's, the transformers (-hf) or the "
        "official InternVL format. With a recipe, its flags (--model.…, --data.…) are accepted too.",
        "%(prog)s MODEL [options]\n       %(prog)s --config RECIPE --ckpt_path FILE [options]",
    )
    add = parser.add_argument
    add_model_options(parser)
    add("--prompt", nargs="+", action="extend", default=[], help="one or several questions, answered independently")
    add("--image", nargs="+", action="extend", default=[], help="image files, given to each prompt")
    add("--video", nargs="+", action="extend", default=[], help="video files, given to each prompt")
    add("--frames", type=int, default=16, help="frames per video (16)")
    add("--system", help="system text; default: that of the model; '': none")
    add("--interactive", action="store_true", help="conversation with lines from the terminal or a pipe; with a "
        "sampler that reasons before it draws, boxes and words can be changed; see /help")  # fmt: skip
    add("--max_new_tokens", type=int, help="most tokens of an answer; default: that of the recipe's sampler, else 64")
    add("--max_length", type=int, help="most tokens of a prompt with its answer; default: limit of the positions")
    add("--temperature", type=float, help="sampling temperature; 0: greedy decoding; default: that of the recipe's "
        "sampler, else 0")  # fmt: skip
    add("--top_p", type=float, help="sample from the most likely tokens with this total probability; likewise, else 1")
    add("--top_k", type=int, help="sample from this many most likely tokens; 0: all; likewise, else 0")
    add("--seed", type=int, help="seed of the sampling")
    add("--stop", nargs="+", action="extend", default=[], help="texts at which an answer ends")
    add("--max_tiles", type=int, help="most tiles of an image")
    add("--share_tiles", action="store_true", help="the images of a prompt share these tiles, as in training")
    add("--delta", type=fraction, help="V2PE: position increment of a visual token, such as 1/4")
    add(
        "--control_text",
        choices=("encode", "refuse"),
        default="encode",
        help="treatment of prompts that contain a token of the template, such as <|im_end|>: encode it as plain text, "
        "or refuse the prompt",
    )
    add("--frame_prompt", metavar="TEXT", help="text of a video's frame, such as 'Frame-{number}: <image>'")
    add("--json", action="store_true", help="print prompts and answers as JSON")
    add("--out", metavar="FOLDER", help="folder for the pictures of a recipe's sampler that answers with pictures: "
        "1.png, 2.png, …")  # fmt: skip
    add("--boxes", metavar="OUT.png", help="draw the boxes in the answer on the image")
    return parser
