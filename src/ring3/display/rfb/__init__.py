"""Remote Framebuffer protocol (VNC), version 3.8: RFC 6143, and the community's rfbproto for extensions.

    session.py     one viewer's protocol: bytes in, events out; no I/O
    messages.py    numbers, and messages we send
    des.py         the cipher of VNC authentication
    clipboard.py   extended clipboard messages
    region.py      damage, by tiles
    encoder.py     a viewer's updates: rectangles, zlib streams
    hub.py         one picture for all viewers: what changed, who gets what and when
    server.py      asyncio: sockets
"""
