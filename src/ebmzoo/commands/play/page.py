"""The page of `ebmzoo play`: its controls, and what they show. All that is computed is in `chain.py`."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from ebmzoo.commands.environment import quietly
from ebmzoo.commands.play.canvas import canvas_of, painted
from ebmzoo.commands.play.chain import Player
from ebmzoo.commands.play.controls import IMAGES, PAINTED, SEED, Control
from ebmzoo.commands.play.drawings import energy_rows, enlarged, frame, histogram_rows, save_animation, shown
from ebmzoo.commands.play.outcomes import PictureScore, Walk
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import HasLevels

ANY = "any"
"""The choice of no class."""
CSS = ".pixels img { image-rendering: pixelated; } footer { display: none !important; }"
COLOURS = {"highest": "#b9c2cf", "mean": "#3f51b5", "lowest": "#7f93b2"}


def build(player: Player, name: str, gr: Any) -> Any:
    """The page of a model called `name`, as a `Blocks` of the module `gr`, gradio."""
    return _Page(player, name, gr).blocks()


class _Page:
    def __init__(self, player: Player, name: str, gr: Any) -> None:
        self.player = player
        self.name = name
        self.gr = gr
        self.shape = player.method.image_shape

    def blocks(self) -> Any:
        gr, player = self.gr, self.player
        with gr.Blocks(title=f"ebmzoo play: {self.name}", analytics_enabled=False) as page:
            gr.Markdown(self._introduction())
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    gr.Markdown("### The chain")
                    steps = self._slider(player.steps, "Langevin steps", self._about_steps(), 1)
                    temperature = self._slider(player.temperature, "Temperature", self._about_temperature(), 0.05)
                    seed = gr.Number(
                        SEED.value, label="Seed", info="The same seed and settings give the same picture.", precision=0
                    )
                    walks = player.steps.why_not is None
                    stop = gr.Button("Stop", variant="stop", size="sm", elem_id="stop", visible=walks)
                    stop.click(player.stop, queue=False, api_visibility="private", show_progress="hidden")
                with gr.Column(scale=3), gr.Tabs():
                    with gr.Tab("Sample"):
                        self._sampling(seed, steps, temperature)
                    with gr.Tab("A picture of yours"):
                        self._picturing(seed, steps, temperature)
        return page

    def _introduction(self) -> str:
        channels, height, width = self.shape
        kind = f"{height}×{width} {'grey' if channels == 1 else 'colour'} images"
        chain = (
            "A chain starts from noise, or from what a network proposes, and walks down the energy in small steps with "
            "noise; its end is a sample."
        )
        return (
            f"# {html.escape(self.name)}\n{type(self.player.method).__name__}, a model of {kind}. "
            "Its energy E(x) is low for images like those that it was trained on. "
            + (chain if self.player.steps.why_not is None else "A network makes its samples, without a chain.")
        )

    def _about_steps(self) -> str:
        own, method = self.player.steps.value, self.player.method
        each = f" at each of {method.schedule.levels} noise levels" if isinstance(method, HasLevels) else ""
        return f"Its own number is {own:g}{each}; with 0 there is only what the chain starts from."

    def _about_temperature(self) -> str:
        own = self.player.method.chain_info().temperature
        return f"A factor of its own, {own:.3g}; the noise of a step changes by its square root."

    def _slider(self, control: Control, label: str, info: str, step: float) -> Any:
        usable = control.why_not is None
        return self.gr.Slider(
            control.least,
            control.most,
            control.value,
            step=step,
            label=label,
            info=info if usable else control.why_not,
            interactive=usable,
        )

    # ── samples ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sampling(self, seed: Any, steps: Any, temperature: Any) -> None:
        gr, player = self.gr, self.player
        with gr.Row():
            n = self._slider(IMAGES, "Images", "All are drawn at once.", 1)
            class_ = gr.Dropdown(
                [ANY, *player.classes],
                value=ANY,
                label="Class",
                info=player.no_classes or "What the images are to show.",
                interactive=player.no_classes is None,
            )
            guidance = self._slider(player.guidance, "Guidance", "How strongly towards the class.", 0.1)
        button = gr.Button("Sample", variant="primary", elem_id="sample")
        words = gr.Markdown("*Press Sample.*", elem_id="words")
        walks = player.steps.why_not is None
        with gr.Row():
            with gr.Column(min_width=250, visible=walks):
                chain, at, kept = self._walking("chain")
            with gr.Column(min_width=250):
                samples = self._image("Their ends: the samples" if walks else "The samples", "samples")
            with gr.Column(min_width=250, visible=walks):
                gr.Markdown("**The energy along the chains**")
                plot = gr.LinePlot(
                    x="state",
                    y="energy",
                    color="of the chains",
                    color_map=COLOURS,
                    color_title=" ",
                    x_title="state, as at the slider on the left",
                    y_title="E(x)",
                    height=300,
                    buttons=[],
                    elem_id="energies",
                )

        def run(n: Any, seed: Any, steps: Any, temperature: Any, class_: str, guidance: Any) -> tuple[Any, ...]:
            walk = player.sample(n, seed, steps, temperature, None if class_ == ANY else class_, guidance)
            return self._described(walk), enlarged(walk.images), *self._shown(walk), self._table(energy_rows(walk))

        inputs, outputs = [n, seed, steps, temperature, class_, guidance], [words, samples, chain, at, kept, plot]
        self._on(button, run, inputs, outputs, "sample", samples)

    def _walking(self, id_: str) -> tuple[Any, Any, Any]:
        """The chain as it walks: a picture, the number of the state that it shows, and all its frames."""
        gr = self.gr
        chain = self._image("The chains as they walk", id_)
        at = gr.Slider(0, 1, 0, step=1, label="Show state", visible=False)
        kept = gr.State([])

        def stop(frames: list[Any], number: Any) -> Any:
            return frames[max(0, min(int(number or 0), len(frames) - 1))] if frames else None

        at.input(stop, [kept, at], chain, show_progress="hidden", api_visibility="private", queue=False)
        return chain, at, kept

    def _shown(self, walk: Walk) -> tuple[Any, Any, Any]:
        frames = [frame(moment, number) for number, moment in enumerate(walk.moments)]
        last = len(frames) - 1
        slider = self.gr.update(maximum=max(1, last), value=last, visible=last > 0)
        if last == 0:
            return frames[0], slider, frames
        folder = Path(tempfile.mkdtemp(dir=self.gr.utils.get_upload_folder()))
        save_animation(frames, folder / "chain.gif")
        return str(folder / "chain.gif"), slider, frames

    def _described(self, walk: Walk) -> str:
        energies = walk.energies
        if len(energies) == 1:
            found = f"**Energy {shown(energies[0])}**"
        else:
            low, high = shown(energies.min()), shown(energies.max())
            found = f"**Energy {shown(energies.mean())}** on average, from {low} to {high}"
        unseen = " Of this chain only the end can be shown." if walk.steps and len(walk.moments) == 1 else ""
        return f"{found}: {len(energies)} image{'s' * (len(energies) > 1)}, {walk.cost}.{unseen}"

    # ── a picture ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _picturing(self, seed: Any, steps: Any, temperature: Any) -> None:
        gr, player = self.gr, self.player
        channels, height, width = self.shape
        with gr.Row():
            grey = " and grey" if channels == 1 else ""
            file = gr.File(label=f"Its central square is made {height}×{width}{grey}", file_types=["image"], height=170)
            with gr.Column():
                at_hand = player.data is not None
                index = gr.Number(
                    0,
                    label="or the test image number",
                    precision=0,
                    interactive=at_hand,
                    info="Where no picture is dropped in." if at_hand else f"No test images: {player.no_data}",
                )
        with gr.Row():
            with gr.Column():
                score = gr.Button("Score it", variant="primary", elem_id="score")
                scored = gr.Markdown("How far is it from the images that the model was trained on?")
                seen = self._image("As the model sees it", "seen")
                plot = gr.BarPlot(
                    x="energy",
                    y="images",
                    color="of",
                    color_map={"test images": "#9fa8da", "your picture": "#d32f2f"},
                    color_title=" ",
                    title="Its energy among those of test images",
                    elem_id="histogram",
                    x_title="E(x)",
                    height=220,
                    visible=at_hand,
                    buttons=[],
                )
            with gr.Column():
                usable = player.no_degradations is None
                names = list(player.degradations)
                degradation = gr.Dropdown(
                    [*names, PAINTED] if usable else names,
                    value=names[3 % len(names)] if names else None,
                    label="Damage: what the model is given",
                    info=player.no_degradations or "It sees only what is left of the picture.",
                    interactive=usable,
                )
                canvas = canvas_of(player, gr, [file, index, degradation])
                restore = gr.Button("Damage and restore it", variant="primary", elem_id="restore", interactive=usable)
                restored = gr.Markdown("")
                with gr.Row():
                    with gr.Column(min_width=120):
                        left = self._image("What was left", "left", 190)
                    with gr.Column(min_width=120):
                        ends = self._image("Four restorations", "restored", 190)
                chain, at, kept = self._walking("restoring")

        def run_score(file: str | None, index: Any) -> tuple[Any, ...]:
            picture = player.picture(file, index)
            found = player.score(picture)
            return self._placed(found), enlarged(picture), self._table(histogram_rows(found))

        def run_restore(
            file: str | None, index: Any, wanted: str, seed: Any, steps: Any, temperature: Any, drawn: Any
        ) -> tuple[Any, ...]:
            mask = painted(drawn["layers"], width) if drawn else None
            found = player.restore(player.picture(file, index), wanted, 4, seed, steps, temperature, mask)
            before, after = found.psnr
            words = f"PSNR against the picture **{after:.1f} dB**, damaged {before:.1f} dB; {found.walk.cost}."
            return words, enlarged(found.left, 180), enlarged(found.walk.images, 180), *self._shown(found.walk)

        self._on(score, run_score, [file, index], [scored, seen, plot], "score", seen)
        inputs = [file, index, degradation, seed, steps, temperature, canvas]
        self._on(restore, run_restore, inputs, [restored, left, ends, chain, at, kept], "restore", ends)

    def _placed(self, found: PictureScore) -> str:
        """Energy and score of a picture, and where they lie among those of test images."""
        shares = found.share_below()
        lines = []
        for what, value, k in (("Energy", found.energy, 0), ("Out-of-distribution score", found.score, 1)):
            n = 0 if found.of_test is None else len(found.of_test[k])
            place = "" if shares is None else f", higher than {shares[k]:.0%} of {n} test images"
            lines.append(f"**{what} {shown(value)}**{place}.")
        if found.score == found.energy:
            return f"{lines[0]} This model's out-of-distribution score is its energy."
        return "  \n".join(lines)

    # ── of both ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _image(self, label: str, id_: str, height: int = 320) -> Any:
        self.gr.Markdown(f"**{label}**")
        return self.gr.Image(
            label=label,
            show_label=False,
            format="png",
            interactive=False,
            height=height,
            buttons=[],
            elem_id=id_,
            elem_classes="pixels",
        )

    def _table(self, rows: list[dict[str, Any]]) -> Any:
        import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]  # gradio brings it

        return pandas.DataFrame(rows) if rows else None

    def _on(
        self, button: Any, run: Callable[..., Any], inputs: list[Any], outputs: list[Any], name: str, main: Any
    ) -> None:
        """Run a function at a press of a button, one at a time; errors are sentences. `main` shows that it runs."""

        @wraps(run)
        def told(*values: Any) -> Any:
            try:
                with quietly():
                    return run(*values)
            except UserError as error:
                sentence = html.escape(str(error), quote=False)
                title = "This was not done"
                raise self.gr.Error(sentence, duration=None, title=title, print_exception=False) from error

        shared = {"concurrency_limit": 1, "concurrency_id": "model"}
        button.click(told, inputs, outputs, api_name=name, show_progress_on=main, **shared)
