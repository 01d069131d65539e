"""Node schemas, one file a family, each node a few lines over the library."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class AttractorExtension(ComfyExtension):
    """All nodes of the pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Import late: the host lists its packs before anyone uses them."""
        from .compare import Compare
        from .concept import LoadConcept, Prompt, SaveConcept
        from .demo import LoadDemo
        from .host.routes import register
        from .mask import Mask
        from .propose import Propose
        from .release import ReleaseGate
        from .sample import SampleGrid
        from .score import Score
        from .study import Study
        from .subject import LoadSubject, Split
        from .sweep import Sweep
        from .train import Train

        register()
        return [LoadSubject, Split, Mask, Propose, Train, SaveConcept, LoadConcept, Prompt, SampleGrid, Score, Compare,
                Study, Sweep, ReleaseGate, LoadDemo]  # fmt: skip
