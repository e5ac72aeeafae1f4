"""What bytes are: a file's type, a fragment's content, and a map of what lies where. Works without torch.

>>> from byteloom.tasks.identify import identify
>>> identify(open("/bin/ls", "rb").read()).label
'elf'
"""

from byteloom.tasks.identify.identification import Classifier, Identification, Span, content_map, identify
from byteloom.tasks.identify.labels import GROUP_OF, GROUPS
from byteloom.tasks.identify.network import NgramNetwork, shipped_network

__all__ = [
    "GROUPS",
    "GROUP_OF",
    "Classifier",
    "Identification",
    "NgramNetwork",
    "Span",
    "content_map",
    "identify",
    "shipped_network",
]
