"""A small rendered world in which subject, mask, background and light are known."""

from .backgrounds import BACKGROUNDS as BACKGROUNDS
from .captions import caption as caption
from .items import KINDS as KINDS
from .palette import COLOUR_NAMES as COLOUR_NAMES
from .palette import COLOURS as COLOURS
from .render import render as render
from .scene import DETAILS as DETAILS
from .scene import PATTERNS as PATTERNS
from .scene import Detail as Detail
from .scene import Distractions as Distractions
from .scene import Scene as Scene
from .scene import Thing as Thing
from .scene import held_back as held_back
from .scene import sample_scene as sample_scene
from .subjects import Photo as Photo
from .subjects import Subject as Subject
from .subjects import sample_subject as sample_subject
from .subjects import subject_photos as subject_photos
