"""VMDK images: VMware, "Virtual Disk Format 5.0"; section titles are quoted where they matter."""

from ring3.disk.vmdk.create import KINDS, Stream, create, create_flat
from ring3.disk.vmdk.descriptor import Descriptor, parse
from ring3.disk.vmdk.image import Flat, Nothing, Vmdk
from ring3.disk.vmdk.sparse import MAGIC, Sparse

__all__ = [
    "KINDS", "MAGIC", "Descriptor", "Flat", "Nothing", "Sparse", "Stream", "Vmdk", "create", "create_flat",
    "parse",
]
