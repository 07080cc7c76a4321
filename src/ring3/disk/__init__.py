"""Disk images: what stands behind the drives of a machine.

    image = open_image("disk.qcow2")
    drive = DiskWorker(image, bus.lock)

An `Image` is synchronous and knows no guest: bytes at offsets, errors are OSErrors.  A `DiskWorker` makes of
it the asynchronous drive that storage chips see.  Formats: raw, qcow2 and
VMDK, and VDI, VHD and VHDX to be read.
"""

from ring3.disk.image import SECTOR, Image
from ring3.disk.probe import FORMATS, create_image, open_image
from ring3.disk.worker import DiskWorker

__all__ = ["FORMATS", "SECTOR", "DiskWorker", "Image", "create_image", "open_image"]
