"""`ebmzoo play`: load a model and serve its page on this machine, to this machine alone."""

from __future__ import annotations

import math
import os
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ebmzoo.commands.command_line import with_flag_values
from ebmzoo.commands.config_data import image_data
from ebmzoo.commands.environment import placed, quietly
from ebmzoo.commands.play.chain import PICTURE_MIB, Player
from ebmzoo.commands.play.local_only import LOCAL, LocalOnly
from ebmzoo.commands.play.page import CSS, build
from ebmzoo.commands.shared_models import PRETRAINED
from ebmzoo.data import ImageData
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.tasks.conditioning import has_classes
from ebmzoo.training.checkpoint import load, read
from ebmzoo.training.config import ZooParser
from ebmzoo.training.migration import KEY
from ebmzoo.training.training_data import TrainingData

OFF = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
"""The environment in which gradio asks no server for anything; it reads it as it is imported."""


def main(args: list[str]) -> None:
    """Serve the page as the command line says."""
    parser = ZooParser(prog="ebmzoo play", description="Serve a page on this machine that plays with a model.")
    parser.add_function_arguments(play)
    parser.add_argument("--pretrained", type=str, default=None, help=PRETRAINED)
    flags = parser.parse_args(with_flag_values(args)[1:]).as_dict()
    flags.pop("pretrained")  # it is the checkpoint by now
    with quietly():
        play(**flags)


def play(
    ckpt_path: str,
    port: int = 7860,
    weights: Literal["ema", "raw"] = "ema",
    device: str = "auto",
    trust: bool = False,
) -> None:
    """Serve a page on this machine that plays with a model: its chain, the energy, and a picture of one's own.

    Args:
        ckpt_path: a checkpoint that `ebmzoo fit` wrote, the folder of a shared model, or its address hf:user/name;
            nothing else is needed.
        port: the page is http://127.0.0.1:port, which only this machine can open.
        weights: ema for the averaged weights, raw for the trained ones.
        device: auto, cpu, cuda, cuda:1, …
        trust: allow the checkpoint's config to name classes from outside ebmzoo, whose code then runs.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"port is {port}; it must be from 1 to 65535")
    method = load(ckpt_path, trust)
    if not isinstance(method, Method):
        raise UserError(f"ckpt_path: {ckpt_path} holds a {type(method).__name__}, which does not sample images")
    method = placed(method, weights, device)
    if math.prod(method.image_shape) == 2:
        raise UserError(
            f"ckpt_path: {ckpt_path} holds a model of two-dimensional points; `ebmzoo animate` shows its chains"
        )
    data, no_data = _data(ckpt_path, method, trust)
    with tempfile.TemporaryDirectory(prefix="ebmzoo_play_") as folder:
        gr = gradio(Path(folder))
        player = Player(method, data, no_data)
        try:
            serve(build(player, _name(ckpt_path), gr), port, gr)
        finally:
            player.stop()  # a chain on its way would hold up the end


def gradio(folder: Path) -> Any:
    """The module gradio, which asks no server for anything and keeps its files in `folder`.

    Raises:
        UserError: It is not installed.
    """
    os.environ |= OFF | {"GRADIO_TEMP_DIR": str(folder)}
    try:
        return import_module("gradio")
    except ModuleNotFoundError as error:
        raise UserError("play needs the package gradio: pip install 'ebmzoo[play]'") from error


def serve(page: Any, port: int, gr: Any) -> None:
    """Serve a page to this machine until a signal ends it.

    Raises:
        UserError: The port is taken.
    """
    launch(page, port, gr)
    print(f"open http://{LOCAL}:{port} in a browser on this machine; Ctrl-C ends it", flush=True)
    try:
        while True:
            time.sleep(3600)
    finally:
        page.close(verbose=False)


def launch(page: Any, port: int, gr: Any) -> None:
    """Begin to serve a page to this machine, in a thread of its own; errors as of `serve`."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    )
    try:
        page.launch(
            server_name=LOCAL,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            state_session_capacity=8,
            max_file_size=PICTURE_MIB * 2**20,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=CSS,
            app_kwargs={"middleware": [(LocalOnly, (), {})], "docs_url": None, "redoc_url": None},
        )
    except OSError as error:
        raise UserError(f"port is {port}, which is taken; choose another with --port") from error


def _data(ckpt_path: str, method: Method, trust: bool) -> tuple[ImageData | None, str]:
    """The data of the model where they are on this machine, and otherwise why not: nothing is downloaded."""
    carried = read(ckpt_path)[KEY]
    try:
        data = image_data(carried["config"], trust)
        data.test_set  # noqa: B018  (loads the files)
        if has_classes(method):
            TrainingData.read(carried).check_classes(data.training_classes[0])
    except UserError as error:
        return None, str(error)
    return data, ""


def _name(ckpt_path: str) -> str:
    """What the page calls the model: the folder of its file."""
    return Path(ckpt_path).resolve().parent.name
