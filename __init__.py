"""Limelight: say where attention goes. A ComfyUI node pack; see README.md."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host calls this once to get the pack's extension; nothing heavy is imported before."""
    from .nodes import LimelightExtension

    return LimelightExtension()
