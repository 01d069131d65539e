"""Attractor: learn one subject from a few photos, and nothing but the subject."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Give ComfyUI the pack's nodes."""
    from .nodes import AttractorExtension

    return AttractorExtension()
