"""qcow2 images, versions 2 and 3: QEMU's published specification, docs/interop/qcow2.txt."""

from ring3.disk.qcow2.create import create
from ring3.disk.qcow2.header import MAGIC
from ring3.disk.qcow2.image import Qcow2

__all__ = ["MAGIC", "Qcow2", "create"]
