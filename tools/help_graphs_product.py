"""The small graphs that the help pages of placing, measuring and finishing products show; see `help_graphs`."""

from __future__ import annotations

from .help_graphs import BAND, PICTURE, SCRIBBLES, Graph, Place, mask, node


def product(at: Place = None) -> Graph:
    """A picture, and the ellipse as the mask of the product in it."""
    return {"picture": node("LoadImage", at, (210, 330) if at else None, image=SCRIBBLES), "cut": mask(None)}


def laid(at: Place, size: Place, **inputs: float) -> dict:
    """The node that lays the product on a small canvas."""
    made = node("LimelightPlaceSubject", at, size, image=("picture", 0), mask=("cut", 0), width=256, height=256)
    made["inputs"] |= {"size": 60.0, **inputs}
    return made


def placed(at: Place = None, size: Place = None) -> Graph:
    """The product on its canvas."""
    return {**product(), "place": laid(at, size)}


def grown() -> Graph:
    """The masks of a subject before, and after a bar has grown on it."""
    joined = node(
        "MaskComposite", None, destination=("before", 0), source=("bar", 0), x=0, y=0, operation="add", title="after"
    )
    return {"before": mask((0, 0), (170, 290)), "bar": mask(None, file=BAND), "after": joined}


GRAPHS: dict[str, Graph] = {
    "LimelightPlaceSubject": {
        **product((0, 0)),
        "here": laid((240, 0), (280, 0), rotation=15.0),
        "shown": node("PreviewImage", (550, 0), (210, 280), images=("here", 0)),
    },
    "LimelightObjectExpansion": {
        **grown(),
        "here": node("LimelightObjectExpansion", (200, 0), (320, 420), before=("before", 0), after=("after", 0)),
    },
    "LimelightSelectByExpansion": {
        **grown(),
        "good": node("LoadImage", None, image=PICTURE),
        "flipped": node("ImageFlip", None, image=("good", 0), flip_method="y-axis: horizontally"),
        "batch": node("ImageBatch", None, title="Batch Images", image1=("flipped", 0), image2=("good", 0)),
        "masks": node("MaskToImage", None, mask=("after", 0)),
        "kept": node("MaskToImage", None, mask=("before", 0)),
        "both": node("ImageBatch", None, image1=("masks", 0), image2=("kept", 0)),
        "found": node("ImageToMask", None, image=("both", 0), channel="red"),
        "here": node(
            "LimelightSelectByExpansion",
            (200, 0),
            (290, 0),
            image=("batch", 0),
            before=("before", 0),
            after=("found", 0),
        ),
        "all": node("PreviewImage", (520, 0), (210, 280), "all", images=("batch", 0)),
        "shown": node("PreviewImage", (760, 0), (210, 280), "the best", images=("here", 0)),
    },
    "LimelightLeakMask": {
        **grown(),
        "grown": node("MaskPreview", (200, 0), (190, 260), "after", mask=("after", 0)),
        "here": node("LimelightLeakMask", (420, 0), (250, 0), before=("before", 0), after=("after", 0)),
        "shown": node("MaskPreview", (700, 0), (190, 260), mask=("here", 0)),
    },
    "LimelightCompositeSubject": {
        **placed((0, 0), (250, 0)),
        "wall": node("EmptyImage", None, width=256, height=256, batch_size=1, color=0xC9B79A),
        "shade": node("LimelightSubjectShadow", None, mask=("place", 1)),
        "here": node(
            "LimelightCompositeSubject",
            (280, 0),
            (280, 0),
            image=("wall", 0),
            subject=("picture", 0),
            mask=("cut", 0),
            placement=("place", 2),
            shadow=("shade", 0),
        ),
        "shown": node("PreviewImage", (590, 0), (210, 280), images=("here", 0)),
    },
    "LimelightSubjectShadow": {
        **placed(),
        "subject": node("MaskPreview", (0, 0), (190, 260), "on its canvas", mask=("place", 1)),
        "here": node("LimelightSubjectShadow", (220, 0), (280, 0), mask=("place", 1)),
        "shown": node("MaskPreview", (530, 0), (190, 260), mask=("here", 1)),
    },
}
